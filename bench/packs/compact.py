"""A compact copy of a result store: the last plan, the cells and their tables, the pictures that the page shows.

The copy is read in one transaction, so it is consistent also while a run writes to the store.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.store import serialise
from bench.store.database import NAME
from bench.store.plan_record import PlanRecord, parse_plan
from bench.store.records import IMAGES_SHOWN, LEFT_OUT
from bench.store.sqlite import insert, translated
from bench.store.store import Store


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
        store.plans.latest()
    with Store.open(target, create=True):
        pass
    with translated(target / NAME), _connected(out) as source, _connected(target) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
        source.execute("BEGIN")
        copy.execute("BEGIN")
        last = source.execute("SELECT id, plan FROM plans ORDER BY id DESC LIMIT 1").fetchone()
        insert(copy, "plans", {"id": 1, "plan": last["plan"]})
        sql = "SELECT row, evaluation, cell FROM bindings WHERE plan=:plan ORDER BY row, evaluation"
        for binding in source.execute(sql, {"plan": last["id"]}):
            insert(copy, "bindings", {"plan": 1, **binding})
        for cell in _copy_cells(source, copy, parse_plan(last["plan"], str(out / NAME)) if latest else None):
            sql = "SELECT cell, epoch, record FROM epochs WHERE cell=:cell ORDER BY epoch"
            for epoch in source.execute(sql, {"cell": cell}):
                insert(copy, "epochs", dict(epoch))
            _copy_chunks(source, copy, cell, pictures)
        copy.execute("COMMIT")
        copy.execute("VACUUM")


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's database without changing its mode, with columns by name."""
    with contextlib.closing(sqlite3.connect(folder / NAME, timeout=60.0, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        yield db


def _copy_cells(source: sqlite3.Connection, copy: sqlite3.Connection, plan: PlanRecord | None) -> list[str]:
    """Copy the cells' records, without their holders, and return their ids; `plan` limits them to its own."""
    wanted = None
    if plan is not None:
        wanted = {run.train_cell for run in plan.rows}
        wanted |= {binding["cell"] for binding in copy.execute("SELECT cell FROM bindings")}
    kept = []
    for row in source.execute("SELECT id, kind, spec, status, seconds, error, info FROM cells ORDER BY rowid"):
        cell = dict(row)
        if wanted is not None and cell["id"] not in wanted:
            continue
        info = {k: v for k, v in json.loads(cell["info"]).items() if k != LEFT_OUT}
        cell["info"] = serialise.dump_json(info)
        cell["status"] = "pending" if cell["status"] == "running" else cell["status"]
        insert(copy, "cells", cell)
        kept.append(cell["id"])
    return kept


def _copy_chunks(source: sqlite3.Connection, copy: sqlite3.Connection, cell: str, pictures: bool) -> None:
    """Copy a cell's chunks; of their images all, or those that the page shows."""
    shown = None if pictures else _shown(source, cell)
    sql = "SELECT cell, number, data, sha256, images, images_sha256, info FROM chunks WHERE cell=:cell ORDER BY number"
    for row in source.execute(sql, {"cell": cell}):
        chunk = dict(row)
        insert(copy, "chunks", chunk if shown is None or chunk["images"] is None else _reduced(chunk, shown))


def _reduced(chunk: Mapping[str, Any], shown: np.ndarray) -> Mapping[str, Any]:
    """Return a row of the table `chunks` with only some of its images; the info counts what is left out.

    Args:
        chunk: column to value.
        shown: places in the data set of the images that stay.
    """
    arrays = serialise.unpack_arrays(chunk["images"])
    keep = np.isin(arrays["index"], shown)
    if keep.all():
        return chunk
    info = json.loads(chunk["info"])
    info[LEFT_OUT] = info.get(LEFT_OUT, 0) + int((~keep).sum())
    images = serialise.pack_arrays({k: v[keep] for k, v in arrays.items()}) if keep.any() else None
    sha = None if images is None else sha256_of(images)
    return {**chunk, "info": serialise.dump_json(info), "images": images, "images_sha256": sha}


def _shown(source: sqlite3.Connection, cell: str) -> np.ndarray:
    """Return the places of the images that the page may show of a cell: the nearest and the farthest broken ones."""
    index, distance = [np.zeros(0, dtype=int)], [np.zeros(0)]
    sql = "SELECT images, images_sha256 FROM chunks WHERE cell=:cell AND images IS NOT NULL ORDER BY number"
    for images, sha in source.execute(sql, {"cell": cell}):
        if sha256_of(images) != sha:
            raise IntegrityError(
                f"cell {cell[:12]}: expected pictures with SHA-256 {sha[:12]}, got {sha256_of(images)[:12]}. "
                "The store was changed outside bench: restore it, or delete the folder and run again."
            )
        arrays = serialise.unpack_arrays(images)
        delta = (arrays["adversarial"] - arrays["clean"]).reshape(len(arrays["index"]), -1)
        index.append(arrays["index"])
        distance.append(np.linalg.norm(delta.astype("float64"), axis=1))
    order = np.argsort(np.concatenate(distance), kind="stable")
    return np.concatenate(index)[np.concatenate([order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]])]
