"""What is read back is believed only where its hash, its owner and its form agree, and reading changes nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from bench.core.errors import IntegrityError, MachineError, StoreError
from bench.core.hashing import sha256_of
from bench.store import seals, serialise
from bench.store.links import require_links
from bench.store.records import CellRecord
from bench.store.store import Store
from tests.bench.store.access import without_rights, without_write_access

Read = Callable[[Store], object]
READS: dict[str, Read] = {
    "cell": lambda store: store.cell("e"),
    "cells": lambda store: store.cells("evaluation"),
    "chunk_info": lambda store: store.chunk_info("e"),
    "table": lambda store: store.table("e"),
    "images": lambda store: store.images("e"),
    "log": lambda store: store.log("t"),
}


def fill(out: Path) -> None:
    with Store.open(out, create=True) as store:
        train = store.leases.claim("t", "train", {"defense": "d"})
        assert train is not None
        store.put_epoch(train, {"epoch": 0, "loss": 1.5})
        store.finish(train, {"weights": "w", "wall_seconds": 1})
        lease = store.leases.claim("e", "evaluation", {"model": {"weights": "w"}})
        assert lease is not None
        pictures = {"index": np.arange(2), "clean": np.zeros((2, 1, 2, 2)), "adversarial": np.ones((2, 1, 2, 2))}
        for number in range(2):
            table = pd.DataFrame({"index": [2 * number, 2 * number + 1], "label": [0, 1], "value": [0.5, 1.5]})
            store.put_chunk(lease, number, table, pictures, {"images": 2})
        store.finish(lease, {"forwards": 4})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filled")
    fill(out)
    return out


@pytest.fixture
def out(filled: Path, tmp_path: Path) -> Path:
    shutil.copyfile(filled / "bench.db", tmp_path / "bench.db")
    return tmp_path


def change(out: Path, sql: str, *values: object, seal: str = "") -> None:
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.row_factory = sqlite3.Row
        db.execute(sql, values)
        if seal:
            seals.seal(db, seal, "true", {})


def refused(out: Path, read: str, match: str) -> None:
    with Store.open(out) as store, pytest.raises(IntegrityError, match=match) as caught:
        READS[read](store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "read", "named"),
    [
        ("UPDATE cells SET info=replace(info, '4', '5') WHERE id='e'", "cell", "cell e"),
        ("UPDATE cells SET spec=replace(spec, 'w', 'v') WHERE id='e'", "cells", "cell e"),
        ("UPDATE cells SET status='pending' WHERE id='e'", "cell", "cell e"),
        ("UPDATE cells SET seal=NULL WHERE id='e'", "cell", "cell e"),
        ("UPDATE cells SET seconds=x'00ff' WHERE id='e'", "cell", "cell e"),
        ("UPDATE chunks SET info='{}' WHERE number=1", "chunk_info", "chunk 1 of cell e"),
        ("UPDATE chunks SET number=7 WHERE number=1", "table", "chunk 7 of cell e"),
        ("UPDATE chunks SET data=zeroblob(length(data)) WHERE number=1", "table", "chunk 1 of cell e"),
        ("UPDATE chunks SET images=zeroblob(9) WHERE number=1", "images", "chunk 1 of cell e"),
        ("UPDATE chunks SET sha256='' WHERE number=0", "table", "chunk 0 of cell e"),
        ("UPDATE epochs SET record='{}'", "log", "epoch 0 of cell t"),
        ("UPDATE epochs SET record=x'ff'", "log", "epoch 0 of cell t"),
    ],
)
def test_a_changed_record_is_named(out: Path, sql: str, read: str, named: str) -> None:
    change(out, sql)
    refused(out, read, f"{named}: expected")


def blob(column: str, content: bytes) -> tuple[str, bytes, str]:
    sha = "sha256" if column == "data" else "images_sha256"
    return f"UPDATE chunks SET {column}=?, {sha}=?", content, sha256_of(content)


def test_what_does_not_parse_is_3_although_every_hash_agrees(out: Path) -> None:
    arrow = serialise.pack_table(pd.DataFrame({"value": [1.0]}))
    no_index = blob("data", arrow), "table", "index"
    broken = [(blob("data", content), "table", "data that can be read") for content in (b"", b"ARROW1", arrow[:-40])]
    pictures = [zlib.compress(b"none"), b"x", zlib.compress(save({"index": np.zeros(3)}))[:-9]]
    broken += [(blob("images", content), "images", "images that can be read") for content in pictures]
    for (sql, *values), read, match in [no_index, *broken]:
        change(out, sql, *values, seal="chunks")
        refused(out, read, match)


@pytest.mark.parametrize(
    ("table", "what", "read"),
    [
        ("cells", "info='{'", "cell"),
        ("cells", "info='[]'", "cell"),
        ("cells", "spec='7'", "cells"),
        ("cells", "status='finished'", "cell"),
        ("cells", f"info='{'[' * 5000}'", "cell"),
        ("chunks", "info='null'", "chunk_info"),
        ("epochs", "record='x'", "log"),
    ],
)
def test_records_of_another_form_are_3_although_their_seals_agree(out: Path, table: str, what: str, read: str) -> None:
    change(out, f"UPDATE {table} SET {what}", seal=table)
    refused(out, read, "expected")


def test_images_that_unfold_to_too_much_are_refused(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialise, "MOST_IMAGES", 1 << 20)
    bomb = serialise.pack_arrays({"index": np.zeros(10**6), "clean": np.zeros(10**6)})
    assert len(bomb) < 1 << 15
    change(out, *blob("images", bomb), seal="chunks")
    refused(out, "images", "at most 1,048,576 bytes")


def test_a_damaged_owner_or_generation_does_not_hold_a_cell(out: Path) -> None:
    change(out, "UPDATE cells SET status='running', owner='{{', generation='x' WHERE id='e'")
    with Store.open(out) as store:
        assert store.leases.holder("e") is None
        assert store.leases.claim("e", "evaluation", {"model": {"weights": "w"}}) is not None
        assert store.cell("e") is not None


def record(weights: str) -> CellRecord:
    return CellRecord("e", "evaluation", "done", None, None, {"weights": weights}, {"model": {"weights": weights}})


def test_an_evaluation_of_other_weights_is_named() -> None:
    require_links("d seed 0", record("w"), {"pgd": record("w"), "unfinished": None})
    with pytest.raises(IntegrityError, match="d seed 0: pgd: expected weights v of its training, got w"):
        require_links("d seed 0", record("v"), {"pgd": record("w")})


# --- files that are none of ours ----------------------------------------------------------------------------------


def test_another_programs_database_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for create in (True, False):
        for sql in ("CREATE TABLE t (x)", "CREATE TABLE IF NOT EXISTS meta (name, text)"):
            change(tmp_path, sql) if not (tmp_path / "bench.db").exists() else None
            before = (tmp_path / "bench.db").read_bytes()
            with pytest.raises(StoreError):
                Store.open(tmp_path, create=create)
            assert (tmp_path / "bench.db").read_bytes() == before
            assert [p.name for p in tmp_path.iterdir()] == ["bench.db"]
            (tmp_path / "bench.db").unlink()


@pytest.mark.parametrize("value", ["99", "2", "1", "-1", "x", "", "²", "9" * 5000])
def test_a_format_that_is_none_is_6(out: Path, value: str) -> None:
    change(out, "UPDATE meta SET value=?", value)
    with pytest.raises(StoreError, match="expected store format"):
        Store.open(out, create=True)


def test_an_empty_file_in_a_used_folder_is_a_lost_store(tmp_path: Path) -> None:
    (tmp_path / "bench.db").touch()
    (tmp_path / "weights").mkdir()
    with pytest.raises(StoreError, match="expected the store of this folder, got an empty file"):
        Store.open(tmp_path, create=True)


# --- without write access -----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="needs users")
@pytest.mark.parametrize("state", ["closed", "crashed", "older"])
def test_a_folder_that_cannot_be_written_can_be_read(out: Path, tmp_path: Path, state: str) -> None:
    open_path = tmp_path / "read only"
    open_path.mkdir()
    shutil.copyfile(out / "bench.db", open_path / "bench.db")
    if state == "older":
        downgrade(open_path)
    keep = Store.open(open_path) if state == "crashed" else None
    if keep:  # its log stays behind: another process reads it as if this one had been killed
        lease = keep.leases.claim("late", "train", {})
        assert lease is not None
        keep.finish(lease, {"wall_seconds": 2.0})
    names = sorted(p.name for p in open_path.iterdir())

    def read() -> None:
        with Store.open(open_path) as store:
            assert len(store.table("e")) == 4
            assert store.cell("t") is not None
            assert (store.cell("late") is not None) == (state == "crashed")
            with pytest.raises(MachineError, match="expected to read and write here"):
                store.leases.claim("new", "train", {})

    with without_write_access(open_path):
        without_rights(read)
        assert sorted(p.name for p in open_path.iterdir()) == names
    if keep:
        keep.close()


def downgrade(out: Path) -> None:
    """Make a store of format 2 of one of format 3: the same tables without what the upgrade adds."""
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        for table in seals.SEALED:
            db.execute(f"ALTER TABLE {table} DROP COLUMN seal")
        db.execute("ALTER TABLE plans DROP COLUMN digest")
        db.execute("ALTER TABLE plans DROP COLUMN used")
        db.execute("UPDATE meta SET value='2'")
        db.execute("PRAGMA journal_mode=DELETE")


def test_a_store_of_format_2_is_sealed_on_opening(out: Path) -> None:
    downgrade(out)
    with Store.open(out) as store:
        for read in READS.values():
            read(store)
        assert len(store.images("e")["index"]) == 4
