"""Signatures of packs: one's own key, no network; whatever is changed, added or taken away does not verify."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

import pytest

from bench.packs.pack import SIGNATURE, pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = Path(__file__).resolve().parents[2] / "reports" / "fabricate.py"
    spec = importlib.util.spec_from_file_location("signing_fabricate", path)
    fabricate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fabricate)
    folder = tmp_path_factory.mktemp("signed")
    fabricate.make_store(folder / "out", fabricate.make_plan(), n=20, chunk=20)
    pack(folder / "out", folder / "pack", examples=False)
    return folder / "pack"


@pytest.fixture
def copy(packed, tmp_path):
    folder = tmp_path / "pack"
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Make two pairs of keys, as `openssl ecparam -name prime256v1 -genkey` does."""
    if importlib.util.find_spec("model_signing") is None and "TOX_ENV_NAME" not in os.environ:  # tox installs it
        pytest.skip("needs the extra `sign`")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        form = (s.Encoding.PEM, s.PrivateFormat.TraditionalOpenSSL, s.NoEncryption())
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*form))
        public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


def test_without_the_extra_it_says_what_to_install(cli, copy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for name in ("signing", "verifying", "hashing"):
        monkeypatch.delitem(sys.modules, f"model_signing.{name}", raising=False)
    for command in ("sign", "verify"):
        done = cli("results", command, copy, "--key", tmp_path / "key.pem")
        assert done.code == 4
        assert "pip install 'adversarial-bench[sign]'" in done.err
        assert len(done.err.splitlines()) == 1


def test_a_signed_pack_verifies_without_a_network_and_still_unpacks(cli, copy, keys, tmp_path, monkeypatch):
    def no_connection(*arguments, **options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", no_connection)  # the class stays: libraries derive theirs from it
    monkeypatch.setattr(socket, "create_connection", no_connection)
    signed = cli("results", "sign", copy, "--key", keys / "mine.pem")
    assert signed.code == 0, signed.err
    assert (copy / SIGNATURE).is_file()
    done = cli("results", "verify", copy, "--key", keys / "mine.pub")
    assert done.code == 0, done.err
    assert done.out.startswith("verified: ")
    assert cli("results", "unpack", copy, "--out", tmp_path / "out").code == 0


@pytest.mark.parametrize("change", ["a bit", "added", "taken away", "another key", "no signature", "other signature"])
def test_what_is_not_as_it_was_signed_is_3(cli, copy, keys, change):
    assert cli("results", "sign", copy, "--key", keys / "mine.pem").code == 0
    key = "mine"
    if change == "a bit":
        content = (copy / "leaderboard.html").read_bytes()
        (copy / "leaderboard.html").write_bytes(content[:-1] + b"?")
    elif change == "added":
        (copy / "more.txt").write_text("more")
    elif change == "taken away":
        (copy / "leaderboard.html").unlink()
    elif change == "another key":
        key = "other"
    elif change == "no signature":
        (copy / SIGNATURE).unlink()
    else:
        (copy / SIGNATURE).write_text("{}")
    done = cli("results", "verify", copy, "--key", keys / f"{key}.pub")
    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert "internal error" not in done.err


def test_a_pack_is_checked_before_it_is_signed(cli, copy, keys):
    (copy / "leaderboard.html").write_text("another page")
    done = cli("results", "sign", copy, "--key", keys / "mine.pem")
    assert done.code == 3
    assert not (copy / SIGNATURE).exists()


def test_a_new_pack_has_no_old_signature(cli, packed, keys, tmp_path):
    out = packed.parent / "out"
    pack(out, tmp_path / "again", examples=False)
    assert cli("results", "sign", tmp_path / "again", "--key", keys / "mine.pem").code == 0
    pack(out, tmp_path / "again", examples=False)
    assert not (tmp_path / "again" / SIGNATURE).exists()


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_a_file_that_is_no_key_is_2(cli, copy, keys, tmp_path, command):
    (tmp_path / "key").write_text("no key")
    done = cli("results", command, copy, "--key", tmp_path / "key")
    assert done.code == 2
    assert "elliptic curve" in done.err
    assert len(done.err.splitlines()) == 1
