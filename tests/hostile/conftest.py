"""Hostile files are made here, by the tests: packs whose hashes agree and whose content means harm."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.packs.pack import LISTING, pack
from bench.store import seals
from bench.store.store import Store


@dataclass(frozen=True)
class Pack:
    """A copy of a good pack that may be spoilt."""

    folder: Path

    def relist(self, change: Callable[[dict], None]) -> None:
        """Change pack.json by a function of its content."""
        path = self.folder / LISTING
        listing = json.loads(path.read_text())
        change(listing)
        path.write_text(json.dumps(listing))

    def plant(self, archive: str, members: Mapping[str, bytes]) -> None:
        """Replace members of an archive, or add some, with hashes that agree everywhere."""
        path = self.folder / archive
        with zipfile.ZipFile(path) as old:
            whole = {name: old.read(name) for name in old.namelist()} | dict(members)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name, content in whole.items():
                new.writestr(name, content)
        self.agree(archive, {name: piece(content) for name, content in whole.items()})

    def agree(self, archive: str, members: Mapping[str, dict]) -> None:
        """Write size and hash of an archive as it is now into pack.json."""
        now = piece((self.folder / archive).read_bytes())

        def change(listing: dict) -> None:
            listing["files"][archive] = now
            listing["archives"][archive] = {**now, "parts": [archive], "members": dict(members)}

        self.relist(change)

    def alter_store(self, change: Callable[[sqlite3.Connection], None]) -> None:
        """Change the store of the pack by a function of its open database; the records are sealed anew."""
        path = self.folder.parent / "altered.db"
        with zipfile.ZipFile(self.folder / "store.zip") as archive:
            path.write_bytes(archive.read("bench.db"))
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            change(db)
            for table in seals.SEALED:
                seals.seal(db, table, "true", {})
        self.plant("store.zip", {"bench.db": path.read_bytes()})


def piece(content: bytes) -> dict[str, object]:
    """Return what pack.json says of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    """Return a good pack of a small fabricated store."""
    path = Path(__file__).resolve().parents[1] / "reports" / "fabricate.py"
    spec = importlib.util.spec_from_file_location("hostile_fabricate", path)
    fabricate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fabricate)
    folder = tmp_path_factory.mktemp("hostile")
    fabricate.make_store(folder / "out", fabricate.make_plan(seeds=(0,)), n=20, chunk=20)
    with Store.open(folder / "out"):
        pass
    pack(folder / "out", folder / "pack", examples=False)
    return folder / "pack"


@pytest.fixture
def spoilt(good, tmp_path) -> Pack:
    """Return a copy of the good pack."""
    folder = tmp_path / "pack"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return Pack(folder)


@pytest.fixture
def refused(cli, tmp_path):
    """Return what unpacks a pack and checks that it is refused: one line, nothing left, in little memory."""

    def check(pack: Pack, code: int, words: str) -> None:
        done = cli("results", "unpack", pack.folder, "--out", tmp_path / "out")
        assert done.code == code, done.out + done.err
        assert words in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1
        assert "internal error" not in done.err
        assert not (tmp_path / "out" / "bench.db").exists()

    return check
