"""A compact copy of a result store: the board's plans, the cells and their tables, all or some of the pictures.

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
from bench.core.ticks import tick
from bench.store import seals, serialise
from bench.store.database import NAME, Database
from bench.store.plans import Plans
from bench.store.records import LEFT_OUT, RESTORE, cell_record
from bench.store.seals import SEALED
from bench.store.sqlite import connect, translated
from bench.store.store import Store


def compact(out: Path, target: Path, *, pictures: Mapping[str, np.ndarray] | None = None, latest: bool = False) -> None:
    """Write a compact copy of a folder's store into another, new folder.

    Cells that are being computed count as unfinished in it; who computes them and when is left out, so that the
    same results make the same bytes.

    Args:
        out: a result folder; it may be in use.
        target: folder to make the copy in.
        pictures: the adversarial examples that are kept: cell to places in the data set; None: all.
        latest: keep only the cells of the plans that the board shows.

    Raises:
        StoreError: no command has been planned in the folder, or the store is damaged.
        MachineError: no store there, or the target cannot be written.
    """
    with Store.open(target, create=True):
        pass
    with contextlib.closing(Database.open(out, create=False)) as source, _connected(target) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
        source.connection.execute("BEGIN")
        copy.execute("BEGIN")
        numbers = Plans(source).board().numbers
        for place, number in enumerate(reversed(numbers), start=1):
            _copy_plan(source, copy, number, place)
        cells = _copy_cells(source, copy, numbers if latest else None)
        for place, cell in enumerate(cells, start=1):
            tick("copying cells", place, len(cells))
            for epoch in source.rows("epochs", "cell=:cell ORDER BY epoch", {"cell": cell}):
                seals.put(copy, "epochs", {name: epoch[name] for name in SEALED["epochs"]})
            _copy_chunks(source, copy, cell, pictures)
        copy.execute("COMMIT")
        copy.execute("VACUUM")


def _copy_plan(source: Database, copy: sqlite3.Connection, number: int, place: int) -> None:
    """Copy a plan with its bindings; `place` is its number in the copy, and its place among those that were used."""
    (row,) = source.rows("plans", "id=:id", {"id": number}, more=("digest", "used"))
    seals.put(copy, "plans", {"id": place, "plan": row["plan"], "digest": row["digest"], "used": place})
    for binding in source.rows("bindings", "plan=:plan ORDER BY row, evaluation", {"plan": number}):
        values = {name: binding[name] for name in ("row", "evaluation", "cell")}
        seals.put(copy, "bindings", {"plan": place, **values})


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a folder's database without changing its mode, with columns by name."""
    with translated(folder / NAME), contextlib.closing(connect(folder / NAME)) as db:
        yield db


def _copy_cells(source: Database, copy: sqlite3.Connection, plans: tuple[int, ...] | None) -> list[str]:
    """Copy the cells' records, without their holders, and return their ids; `plans` limits them to those of plans."""
    wanted = None
    if plans is not None:
        wanted = {run.train_cell for number in plans for run in Plans(source).get(number).rows}
        wanted |= {binding["cell"] for binding in copy.execute("SELECT cell FROM bindings")}
    kept = []
    for row in source.rows("cells", "true ORDER BY rowid", {}):
        record = cell_record(row, str(source.path))
        if wanted is not None and record.id not in wanted:
            continue
        cell = {name: row[name] for name in ("id", "kind", "spec", "status", "seconds", "error")}
        cell["info"] = serialise.dump_json({k: v for k, v in record.info.items() if k != LEFT_OUT})
        cell["status"] = "pending" if record.status == "running" else record.status
        seals.put(copy, "cells", cell)
        kept.append(record.id)
    return kept


def _copy_chunks(
    source: Database, copy: sqlite3.Connection, cell: str, pictures: Mapping[str, np.ndarray] | None
) -> None:
    """Copy a cell's chunks; of their images all, or some."""
    shown = None if pictures is None else pictures.get(cell, np.zeros(0, dtype=np.int64))
    for row in source.rows("chunks", "cell=:cell ORDER BY number", {"cell": cell}, more=("data", "images")):
        chunk = {name: row[name] for name in (*SEALED["chunks"], "data", "images")}
        _checked(source, chunk, "data", "sha256")
        if shown is not None and chunk["images"] is not None:
            chunk = dict(_reduced(source, chunk, shown))
        seals.put(copy, "chunks", chunk)


def _checked(source: Database, chunk: Mapping[str, Any], blob: str, sha: str) -> bytes:
    """Return a blob of a chunk.

    Raises:
        IntegrityError: it does not match its SHA-256.
    """
    data = bytes(chunk[blob])
    if (found := sha256_of(data)) != chunk[sha]:
        raise IntegrityError(
            f"{source.path}: chunk {chunk['number']} of cell {chunk['cell'][:12]}: expected {blob} with SHA-256 "
            f"{str(chunk[sha])[:12]}, got {found[:12]}. {RESTORE}"
        )
    return data


def _reduced(source: Database, chunk: Mapping[str, Any], shown: np.ndarray) -> Mapping[str, Any]:
    """Return a row of the table `chunks` with only some of its images; the info counts what is left out.

    Args:
        source: where it comes from.
        chunk: column to value.
        shown: places in the data set of the images that stay.

    Raises:
        IntegrityError: its images do not match their SHA-256, or are none.
    """
    try:
        arrays = serialise.unpack_arrays(_checked(source, chunk, "images", "images_sha256"))
    except ValueError as error:
        where = f"{source.path}: cell {str(chunk['cell'])[:12]}"
        raise IntegrityError(f"{where}: expected images, got {error}. {RESTORE}") from error
    keep = np.isin(arrays["index"], shown)
    if keep.all():
        return chunk
    info = json.loads(chunk["info"])
    info[LEFT_OUT] = info.get(LEFT_OUT, 0) + int((~keep).sum())
    images = serialise.pack_arrays({k: v[keep] for k, v in arrays.items()}) if keep.any() else None
    sha = None if images is None else sha256_of(images)
    return {**chunk, "info": serialise.dump_json(info), "images": images, "images_sha256": sha}
