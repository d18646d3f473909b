"""Packs that are damaged end with 3, hostile ones with 5, and nothing is ever written but into the folder asked for."""

import contextlib
import hashlib
import importlib.util
import json
import sqlite3
import zipfile
from pathlib import Path

import pytest

from bench.core.errors import IntegrityError, SecurityError, UsageError
from bench.packs.pack import LISTING, Limits, pack
from bench.packs.unpack import unpack


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Pack a fabricated store whose tables do not compress, in several parts."""
    path = Path(__file__).resolve().parents[2] / "reports" / "fabricate.py"
    spec = importlib.util.spec_from_file_location("unpacking_fabricate", path)
    fabricate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fabricate)
    folder = tmp_path_factory.mktemp("packs")
    fabricate.make_store(folder / "big", fabricate.make_plan(), n=4000, chunk=500)
    pack(folder / "big", folder / "good", examples=False, limits=Limits(bytes=1_000_000))
    return folder / "good"


@pytest.fixture
def copy(good, tmp_path):
    """Return a copy of a good pack that may be spoilt."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def refused(cli, folder, out, code, words):
    done = cli("results", "unpack", folder, "--out", out)
    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (out / "bench.db").exists()
    assert not [p for p in out.parent.rglob("*") if "evil" in p.name]


def relist(folder, change):
    """Change pack.json by a function of its content."""
    listing = json.loads((folder / LISTING).read_text())
    change(listing)
    (folder / LISTING).write_text(json.dumps(listing))


def test_a_flipped_bit_in_any_file_is_3(cli, copy, tmp_path):
    for path in sorted(copy.iterdir()):
        if path.name == LISTING:
            continue
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        refused(cli, copy, tmp_path / "out", 3, path.name)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["store.zip.002", "board.zip", "leaderboard.html", "pack.json"])
def test_a_missing_part_is_3(cli, copy, tmp_path, name):
    (copy / name).unlink()
    refused(cli, copy, tmp_path / "out", 3, name)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "files": {"a": 3}, "archives": {}}'])
def test_a_list_that_is_none_is_3(cli, copy, tmp_path, text):
    (copy / LISTING).write_text(text)
    refused(cli, copy, tmp_path / "out", 3, "expected a list of the pack's files")


def test_another_format_is_3(cli, copy, tmp_path):
    relist(copy, lambda listing: listing.update(format=2))
    refused(cli, copy, tmp_path / "out", 3, "expected pack format 1, got 2")


def test_parts_out_of_order_are_3(cli, copy, tmp_path):
    relist(copy, lambda listing: listing["archives"]["store.zip"]["parts"].reverse())
    refused(cli, copy, tmp_path / "out", 3, "in order")


def test_a_folder_that_is_no_pack_and_an_out_that_is_taken(cli, copy, tmp_path):
    refused(cli, tmp_path / "nowhere", tmp_path / "out", 4, "expected a folder with a pack")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    refused(cli, copy, tmp_path / "taken", 2, "expected a new or an empty folder")


# Hostile packs


HOSTILE = ["../evil.txt", "/tmp/evil.txt", "weights/../../evil.txt", "weights\\evil.safetensors", "evil.py",
           "weights/evil.safetensors", "C:evil.txt", "model_info/../evil.json"]  # fmt: skip


def replant(folder, archive, names, kind=0o100644):
    """Put an archive with other members into a pack, with hashes that agree."""
    path, members = folder / archive, {}
    with zipfile.ZipFile(path, "w") as target:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = kind << 16
            target.writestr(entry, b"evil")
            members[name] = {"bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    content = path.read_bytes()
    piece = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def change(listing):
        listing["files"][archive] = piece
        listing["archives"][archive] = {**piece, "parts": [archive], "members": members}

    relist(folder, change)
    return change


@pytest.mark.parametrize("name", HOSTILE)
def test_a_member_with_a_hostile_name_is_5(cli, copy, tmp_path, name):
    replant(copy, "weights.zip", [name])
    refused(cli, copy, tmp_path / "out", 5, "Do not use this pack")


def test_a_member_that_the_list_does_not_name_is_5_if_hostile_else_3(cli, copy, tmp_path):
    replant(copy, "weights.zip", ["../evil.txt"])
    relist(copy, lambda listing: listing["archives"]["weights.zip"].update(members={}))
    refused(cli, copy, tmp_path / "out", 5, "../evil.txt")
    replant(copy, "weights.zip", [f"weights/{'0' * 64}.safetensors"])
    relist(copy, lambda listing: listing["archives"]["weights.zip"].update(members={}))
    refused(cli, copy, tmp_path / "out2", 3, "got others")


def test_a_link_in_an_archive_is_5(cli, copy, tmp_path):
    replant(copy, "weights.zip", [f"weights/{'0' * 64}.safetensors"], kind=0o120777)
    refused(cli, copy, tmp_path / "out", 5, "plain files")


@pytest.mark.parametrize("name", ["../evil", "evil.zip", "store.zip.exe", "/etc/passwd", "weights.zip.001/../evil"])
def test_a_part_with_a_hostile_name_is_5(cli, copy, tmp_path, name):
    piece = {"bytes": 4, "sha256": "0" * 64}
    relist(copy, lambda listing: listing["files"].update({name: piece}))
    refused(cli, copy, tmp_path / "out", 5, "expected a file of a pack")


def test_a_pack_that_would_unfold_to_too_much_is_5(cli, copy, tmp_path):
    def swell(listing):
        member = {"bytes": 3_999_999_999, "sha256": "0" * 64}
        listing["archives"]["weights.zip"] = {
            **listing["archives"]["board.zip"],
            "members": {f"weights/{i:064x}.safetensors": member for i in range(2)},
            "parts": ["weights.zip"],
        }
        listing["files"]["weights.zip"] = listing["files"]["board.zip"]

    relist(copy, swell)
    refused(cli, copy, tmp_path / "out", 5, "bytes to unpack")


def test_a_member_that_is_larger_than_listed_is_3(cli, copy, tmp_path):
    name = f"weights/{'0' * 64}.safetensors"
    replant(copy, "weights.zip", [name])
    relist(copy, lambda listing: listing["archives"]["weights.zip"]["members"][name].update(bytes=3))
    refused(cli, copy, tmp_path / "out", 3, "expected 3 bytes, got 4")


def test_a_store_that_holds_code_is_5(copy, tmp_path):
    out = tmp_path / "with-trigger"
    unpack(copy, out)
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db:
        db.execute("CREATE TRIGGER evil AFTER INSERT ON plans BEGIN DELETE FROM cells; END")
    store = (out / "bench.db").read_bytes()
    for part in copy.glob("store.zip*"):
        part.unlink()
    with zipfile.ZipFile(copy / "store.zip", "w") as archive:
        archive.writestr("bench.db", store)
    content = (copy / "store.zip").read_bytes()
    piece = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    member = {"bytes": len(store), "sha256": hashlib.sha256(store).hexdigest()}

    def change(listing):
        listing["files"] = {k: v for k, v in listing["files"].items() if not k.startswith("store")}
        listing["files"]["store.zip"] = piece
        listing["archives"]["store.zip"] = {**piece, "parts": ["store.zip"], "members": {"bench.db": member}}

    relist(copy, change)
    with pytest.raises(SecurityError, match="a trigger named 'evil'"):
        unpack(copy, tmp_path / "back")


@pytest.mark.parametrize(
    ("place", "value", "error", "words"),
    [
        (5, (3 << 30).to_bytes(4, "little"), SecurityError, "expected an LZMA window of at most"),
        (200, b"\xff" * 64, IntegrityError, "expected a sound archive|expected SHA-256|expected .* bytes"),
    ],
    ids=["window", "damage"],
)
def test_a_store_whose_compression_lies_is_refused(copy, tmp_path, place, value, error, words):
    """A window of 3 GiB would be allocated before a byte is unpacked; damage that the list agrees with is found."""
    content = bytearray(b"".join(p.read_bytes() for p in sorted(copy.glob("store.zip*"))))
    start = 30 + len("bench.db")  # behind the local header
    assert content[start + 5 : start + 9] == (8 << 20).to_bytes(4, "little"), "the window that pack takes"
    content[start + place : start + place + len(value)] = value
    for part in copy.glob("store.zip*"):
        part.unlink()
    (copy / "store.zip").write_bytes(content)
    piece = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def change(listing):
        listing["files"] = {k: v for k, v in listing["files"].items() if not k.startswith("store")}
        listing["files"]["store.zip"] = piece
        members = listing["archives"]["store.zip"]["members"]
        listing["archives"]["store.zip"] = {**piece, "parts": ["store.zip"], "members": members}

    relist(copy, change)
    with pytest.raises(error, match=words):
        unpack(copy, tmp_path / "back")


def test_errors_of_python_are_the_command_lines(copy, tmp_path):
    with pytest.raises(UsageError, match="new or an empty folder"):
        unpack(copy, copy)
    (copy / "board.zip").unlink()
    with pytest.raises(IntegrityError, match=r"board\.zip: expected a part of the pack"):
        unpack(copy, tmp_path / "out")
