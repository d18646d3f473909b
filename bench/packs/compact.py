"""A compact copy of a result store: the last plan, the cells and their tables, the pictures that the page shows.

The copy is read in one transaction, so it is consistent also while a run writes to the store.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import numpy as np

from bench.core import hashing
from bench.core.errors import IntegrityError, SecurityError, StoreError
from bench.reports.board.examples import IMAGES_SHOWN
from bench.store import serialise
from bench.store.plan_record import PlanRecord, parse_plan
from bench.store.records import LEFT_OUT
from bench.store.sqlite import translated
from bench.store.store import NAME, Store

_TABLES = {"meta", "cells", "chunks", "epochs", "plans", "bindings", "sqlite_sequence"}


def compact(out: Path, target: Path, *, pictures: bool = False, latest: bool = False) -> None:
    """Write a compact copy of a folder's store into another, new folder.

    Cells that are being computed count as unfinished in it; who computes them and when is left out, so that the
    same results make the same bytes.

    Args:
        out: a result folder; it may be in use.
        target: folder to make the copy in.
        pictures: keep all adversarial examples, not only those that the page shows.
        latest: keep only the cells of the last plan.

    Raises:
        StoreError: no command has been planned in the folder, or the store is damaged.
        MachineError: no store there, or the target cannot be written.
    """
    with Store.open(out) as store:
        store.latest_plan()
    with Store.open(target, create=True):
        pass
    with (
        translated(target / NAME),
        contextlib.closing(sqlite3.connect(out / NAME, timeout=60.0, isolation_level=None)) as source,
        contextlib.closing(sqlite3.connect(target / NAME, isolation_level=None)) as copy,
    ):
        copy.execute("PRAGMA journal_mode=DELETE")
        source.execute("BEGIN")
        copy.execute("BEGIN")
        number, plan = source.execute("SELECT id, plan FROM plans ORDER BY id DESC LIMIT 1").fetchone()
        copy.execute("INSERT INTO plans VALUES (1, ?)", (plan,))
        sql = "SELECT 1, row, evaluation, cell FROM bindings WHERE plan=? ORDER BY row, evaluation"
        copy.executemany("INSERT INTO bindings VALUES (?, ?, ?, ?)", source.execute(sql, (number,)))
        cells = _copy_cells(source, copy, parse_plan(plan, str(out / NAME)) if latest else None)
        for cell in cells:
            sql = "SELECT * FROM epochs WHERE cell=? ORDER BY epoch"
            copy.executemany("INSERT INTO epochs VALUES (?, ?, ?)", source.execute(sql, (cell,)))
            _copy_chunks(source, copy, cell, pictures)
        copy.execute("COMMIT")
        copy.execute("VACUUM")


def _copy_cells(source: sqlite3.Connection, copy: sqlite3.Connection, plan: PlanRecord | None) -> list[str]:
    """Copy the cells' records, without their holders, and return their ids; `plan` limits them to its own."""
    wanted = None
    if plan is not None:
        wanted = {run.train_cell for run in plan.rows}
        wanted |= {cell for (cell,) in copy.execute("SELECT cell FROM bindings")}
    kept = []
    sql = "SELECT id, kind, spec, status, seconds, error, info FROM cells ORDER BY rowid"
    for cell, kind, spec, status, seconds, error, info in source.execute(sql):
        if wanted is not None and cell not in wanted:
            continue
        facts = {k: v for k, v in json.loads(info).items() if k != LEFT_OUT}
        state = "pending" if status == "running" else status
        copy.execute(
            "INSERT INTO cells (id, kind, spec, status, seconds, error, info) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (cell, kind, spec, state, seconds, error, serialise.dump_json(facts)),
        )
        kept.append(cell)
    return kept


def _copy_chunks(source: sqlite3.Connection, copy: sqlite3.Connection, cell: str, pictures: bool) -> None:
    """Copy a cell's chunks; of their pictures all, or those that the page shows."""
    shown = None if pictures else _shown(source, cell)
    sql = "SELECT number, data, sha256, images, images_sha256, info FROM chunks WHERE cell=? ORDER BY number"
    for number, data, sha, images, images_sha, info in source.execute(sql, (cell,)):
        if images is not None and shown is not None:
            arrays = serialise.unpack_arrays(images)
            keep = np.isin(arrays["index"], shown)
            if not keep.all():
                facts = json.loads(info)
                facts[LEFT_OUT] = facts.get(LEFT_OUT, 0) + int((~keep).sum())
                info = serialise.dump_json(facts)
                images = serialise.pack_arrays({k: v[keep] for k, v in arrays.items()}) if keep.any() else None
                images_sha = None if images is None else hashing.sha256_of(images)
        row = (cell, number, data, sha, images, images_sha, info)
        copy.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _shown(source: sqlite3.Connection, cell: str) -> np.ndarray:
    """Return the places of the images that the page may show of a cell: the nearest and the farthest broken ones."""
    index, distance = [np.zeros(0, dtype=int)], [np.zeros(0)]
    sql = "SELECT images, images_sha256 FROM chunks WHERE cell=? AND images IS NOT NULL ORDER BY number"
    for images, sha in source.execute(sql, (cell,)):
        if hashing.sha256_of(images) != sha:
            raise IntegrityError(
                f"cell {cell[:12]}: expected pictures with SHA-256 {sha[:12]}, got {hashing.sha256_of(images)[:12]}. "
                "The store was changed outside bench: restore it, or delete the folder and run again."
            )
        arrays = serialise.unpack_arrays(images)
        delta = (arrays["adversarial"] - arrays["clean"]).reshape(len(arrays["index"]), -1)
        index.append(arrays["index"])
        distance.append(np.linalg.norm(delta.astype("float64"), axis=1))
    order = np.argsort(np.concatenate(distance), kind="stable")
    return np.concatenate(index)[np.concatenate([order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]])]


def check_foreign(folder: Path) -> None:
    """Refuse a store from elsewhere that holds more than tables, before anything else is done with it.

    Raises:
        SecurityError: it holds a trigger, a view or an unknown table, which could act when it is used.
        StoreError: it is damaged.
    """
    path = folder / NAME
    with translated(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA trusted_schema=OFF")
        for kind, name, table in db.execute("SELECT type, name, tbl_name FROM sqlite_master"):
            known = (kind == "table" and name in _TABLES) or (kind == "index" and table in _TABLES)
            if not known:
                raise SecurityError(
                    f"{NAME}: expected nothing but the tables of a result store, got a {kind} named {name!r}. "
                    "Do not use this pack."
                )
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{NAME}: expected a sound database, got {verdict!r}. Fetch the pack again.")


def mark_left_out(folder: Path, weights: set[str]) -> int:
    """Note in a store which trained models' weights are not there, and return how many; `weights` are."""
    missing = 0
    with translated(folder / NAME), contextlib.closing(sqlite3.connect(folder / NAME, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        sql = "SELECT id, info FROM cells WHERE kind='train' AND status='done'"
        for cell, text in db.execute(sql).fetchall():
            info = json.loads(text)
            if info.get("weights") not in weights:
                missing += 1
                db.execute("UPDATE cells SET info=? WHERE id=?", (serialise.dump_json(info | {LEFT_OUT: True}), cell))
        db.execute("COMMIT")
    return missing
