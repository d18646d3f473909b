"""Whether a result folder is sound: every hash, every seal, every link, every file."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bench.core.errors import BenchError, IntegrityError, StoreError
from bench.core.hashing import sha256, sha256_of
from bench.store import serialise
from bench.store.database import Database
from bench.store.links import broken_links
from bench.store.owned_file import read_owned
from bench.store.plan_record import PlanRecord
from bench.store.plans import Plans
from bench.store.records import CellRecord, cell_record, parsed_object
from bench.store.seals import SEALED, is_sealed

WEIGHTS: Final = re.compile(r"([0-9a-f]{64})\.safetensors")
PICTURES: Final = re.compile(r".*\.([^.]{8})\.adversarial\.safetensors\.z")  # and how the id of their cell begins
_MOST_MESSAGES: Final = 20  # of SQLite's own check


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was written.

    Attributes:
        where: the record or file.
        what: what is wrong, e.g. "expected …, got …".
        table: the record's table; "" for a file or a link.
        place: the record's rowid.
        cell: id of the cell that it belongs to; "" where it belongs to none.
        remedy: what mends it: `store repair` and then the command again, or the command alone.
    """

    where: str
    what: str
    table: str = ""
    place: int = 0
    cell: str = ""
    remedy: Literal["repair", "run"] = "repair"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def require_sound_file(database: Database) -> None:
    """Refuse a database file whose pages SQLite finds damaged.

    Raises:
        StoreError: it is; the first finding is named.
    """
    found = [str(row[0]) for row in database.query(f"PRAGMA integrity_check({_MOST_MESSAGES})")]
    if found != ["ok"]:
        raise StoreError(
            f"{database.path}: expected a sound database, got {' '.join(found[0].split())[:160]!r}. Run "
            f"python -m bench store repair --out {database.out}."
        )


def record_problems(database: Database, *, parse: bool = True) -> Iterator[Problem]:
    """Yield the records that are not as they were written.

    Args:
        database: an open database.
        parse: also read what the blobs hold, not only compare their hashes.

    Raises:
        StoreError: the file cannot be read.
    """
    for table in SEALED:
        names = ", ".join((*SEALED[table], "seal", *(("data", "images") if table == "chunks" else ())))
        for place in database.query(f"SELECT rowid AS place FROM {table} ORDER BY rowid"):  # one blob at a time
            for row in database.query(f"SELECT {names} FROM {table} WHERE rowid=:place", dict(place)):
                if what := _problem(table, row, parse):
                    yield Problem(database.described(table, row), what, table, place["place"], _cell_of(table, row))


def _cell_of(table: str, row: sqlite3.Row) -> str:
    return "" if table == "plans" else str(row["id" if table == "cells" else "cell"])


def _problem(table: str, row: sqlite3.Row, parse: bool) -> str:
    """Return what speaks against a record, "" if nothing does."""
    if not is_sealed(table, row):
        return "expected a record as it was written, got a changed one"
    try:
        _CHECKS[table](row, parse)
    except ValueError as error:
        return str(error)
    except IntegrityError as error:
        return str(error).partition(": ")[2]
    return ""


def _check_cell(row: sqlite3.Row, _: bool) -> None:
    cell_record(row, "cell")


def _check_chunk(row: sqlite3.Row, parse: bool) -> None:
    """Check a chunk's blobs.

    Raises:
        ValueError: one has another hash, or cannot be read.
    """
    parsed_object(row["info"], "chunk")
    unpack: dict[str, tuple[str, Callable[[bytes], object]]] = {
        "data": ("sha256", serialise.unpack_table),
        "images": ("images_sha256", serialise.unpack_arrays),
    }
    for blob, (sha, read) in unpack.items():
        if (content := row[blob]) is None and blob == "images":
            continue
        if not isinstance(content, bytes) or sha256_of(content) != row[sha]:
            raise ValueError(f"expected {blob} with SHA-256 {str(row[sha])[:12]}, got others")
        try:
            read(content) if parse else None
        except ValueError as error:
            raise ValueError(f"expected {blob} that can be read, got {error}") from error


def _check_epoch(row: sqlite3.Row, _: bool) -> None:
    parsed_object(row["record"], "epoch")


def _check_plan(row: sqlite3.Row, _: bool) -> None:
    """Check that a plan is JSON; one of another version is sound.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(json.loads(row["plan"]), dict):
        raise ValueError("expected a plan, got other JSON")


_CHECKS: Final[dict[str, Callable[[sqlite3.Row, bool], None]]] = {
    "cells": _check_cell,
    "chunks": _check_chunk,
    "epochs": _check_epoch,
    "plans": _check_plan,
    "bindings": lambda row, parse: None,
}


def link_problems(database: Database) -> Iterator[Problem]:
    """Yield what records say of each other that does not agree, for sound records of plans of this version.

    Weights that are missing are named once, whichever plans need them.
    """
    missing: set[str] = set()
    for number in Plans(database).numbers():
        try:
            plan = Plans(database).get(number)
        except BenchError:  # damaged, which `record_problems` finds, or of another version
            continue
        for problem in _plan_problems(database, number, plan):
            if not (problem.cell and problem.cell in missing):
                yield problem
            missing.add(problem.cell)


def _plan_problems(database: Database, number: int, plan: PlanRecord) -> Iterator[Problem]:
    for run in plan.rows:
        try:
            trained = _record(database, run.train_cell)
            records = {key: _record(database, cell) for key, cell in run.evaluations.items()}
        except IntegrityError:
            continue
        where = f"plan {number}, {run.label}"
        yield from (Problem(where, broken, remedy="run") for broken in broken_links(trained, records))
        if trained is not None and lacks_weights(database.out, trained):
            name = f"weights/{trained.info.get('weights')}.safetensors"
            yield Problem(where, f"expected {name}, found none", cell=trained.id, remedy="run")


def lacks_weights(out: Path, trained: CellRecord) -> bool:
    """Tell whether a finished training's weights are gone, although they were not left out when it was packed.

    Args:
        out: the result folder.
        trained: what the store knows of the training.

    Returns:
        False for a training that is not finished.
    """
    path = out / "weights" / f"{trained.info.get('weights')}.safetensors"
    return trained.status == "done" and not trained.left_out and not path.is_file()


def _record(database: Database, cell: str) -> CellRecord | None:
    rows = database.rows("cells", "id=:id", {"id": cell})
    return cell_record(rows[0], database.described("cells", rows[0])) if rows else None


def file_problems(out: Path) -> Iterator[Problem]:
    """Yield the weights and checkpoints of a result folder that are not what their names or heads say."""
    for path in sorted((out / "weights").glob("*.safetensors")):
        if (named := WEIGHTS.fullmatch(path.name)) and (found := sha256(path)) != named[1]:
            yield Problem(f"weights/{path.name}", f"expected SHA-256 {named[1][:12]}, got {found[:12]}")
    for path in sorted((out / "checkpoints").glob("*.pt")):
        try:
            owner = read_owned(path).owner
        except (ValueError, OSError) as error:
            yield Problem(f"checkpoints/{path.name}", f"expected a whole checkpoint, got {error}")
            continue
        if not owner.startswith(f"{path.stem} "):
            yield Problem(f"checkpoints/{path.name}", f"expected one of cell {path.stem[:12]}, got {owner[:120]!r}")
