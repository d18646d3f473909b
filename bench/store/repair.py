"""Make a damaged store whole again: what is intact stays, what is damaged is computed again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.core import files
from bench.core.errors import LockedError, MachineError, StoreError
from bench.store import seals
from bench.store.database import NAME, Database
from bench.store.health import Problem, file_problems, record_problems, require_sound_file
from bench.store.leases import Leases, next_generation
from bench.store.seals import SEALED
from bench.store.sqlite import connect, insert, translated

_DAMAGED: Final = f"{NAME}.damaged"
_PROBED: Final = 2000  # rowids behind the last known one that are tried where a table cannot be read through
_PAGE_COUNT: Final = slice(28, 36)  # of a database's first page: its length in pages, and its first free page


@dataclass
class Repaired:
    """What a repair did.

    Attributes:
        chunks: intact chunks that are there now.
        dropped: the damaged records that were removed or are computed again.
        aside: damaged weights and checkpoints, which have `.damaged` behind their names now.
        kept: where the damaged file was put; None: the file itself was sound.
        lost: table to records that could not be read from a damaged file, as far as they can be counted.
    """

    chunks: int = 0
    dropped: list[Problem] = field(default_factory=list)
    aside: list[Problem] = field(default_factory=list)
    kept: Path | None = None
    lost: dict[str, int] = field(default_factory=dict)


def repair(out: Path) -> Repaired:
    """Repair the store of a result folder.

    A file whose pages are damaged is kept under another name; a new one gets every record that can be read. Records
    that are not as they were written are removed; their cells are computed again by the next run, like the weights
    whose file is damaged.

    Args:
        out: the result folder.

    Returns:
        What was done.

    Raises:
        MachineError: there is no store, or no right to write.
        StoreError: nothing of it can be read, or it is a newer bench's.
        LockedError: a run works on the folder.
    """
    if not (out / NAME).is_file():
        raise MachineError(f"{out}: expected a result folder with {NAME}, found none. Check --out.")
    done = Repaired()
    if not _is_sound(out):
        done.kept, done.lost = _salvage(out)
    with contextlib.closing(Database.open(out, create=False)) as database:
        refuse_while_in_use(database)
        done.dropped = drop_damaged(database)
        done.chunks = int(database.query("SELECT count(*) AS n FROM chunks")[0]["n"])
    done.aside = list(file_problems(out))
    for problem in done.aside:
        files.set_aside(out / problem.where)
    return done


def refuse_while_in_use(database: Database) -> None:
    """Refuse to change a store on which a run works.

    Raises:
        LockedError: one does; it is named.
    """
    leases = Leases(database)
    for row in database.query("SELECT id FROM cells WHERE status='running'"):
        if holder := leases.holder(row["id"]):
            raise LockedError(f"{database.out}: expected no run on this folder, got one on {holder}. Wait for it.")


def drop_damaged(database: Database, *, parse: bool = True) -> list[Problem]:
    """Remove the records that are not as they were written, so that their cells are computed again.

    A cell's own record stays, without its result and under a generation that no worker holds. Cells that a living
    worker computes are left alone.

    Args:
        database: an open database.
        parse: also read what the blobs hold, not only compare their hashes.

    Returns:
        What was found.
    """
    leases = Leases(database)
    found = [p for p in record_problems(database, parse=parse) if not (p.cell and leases.holder(p.cell))]
    if not found:
        return []
    with database.transaction() as db:
        for problem in found:
            if problem.table != "cells":
                db.execute(f"DELETE FROM {problem.table} WHERE rowid=:place", {"place": problem.place})
            if problem.table == "plans":
                db.execute("DELETE FROM bindings WHERE plan=:place", {"place": problem.place})
            if problem.table in ("cells", "chunks"):
                _reset(db, problem.cell)
    return found


def _reset(db: sqlite3.Connection, cell: str) -> None:
    """Make a cell unfinished; what is stored of it stays."""
    for row in db.execute("SELECT rowid AS place, generation FROM cells WHERE id=:id", {"id": cell}).fetchall():
        values = {"generation": next_generation(row["generation"]), "place": row["place"]}
        db.execute(
            "UPDATE cells SET status='pending', kind=CASE kind WHEN 'train' THEN kind ELSE 'evaluation' END, "
            "spec=CASE json_valid(spec) WHEN 1 THEN spec ELSE '{}' END, info='{}', seconds=NULL, error=NULL, "
            "owner=NULL, heartbeat=NULL, generation=:generation WHERE rowid=:place",
            values,
        )
        seals.seal(db, "cells", "rowid=:place", values)


def _is_sound(out: Path) -> bool:
    """Tell whether SQLite finds nothing wrong with the pages of a folder's database.

    Returns:
        False where it cannot even be opened.

    Raises:
        StoreError: it is sound, but no store of this version.
    """
    try:
        with contextlib.closing(Database.open(out, create=False)) as database:
            require_sound_file(database)
    except StoreError:
        if _reads_as_sqlite(out):
            raise
        return False
    return True


def _reads_as_sqlite(out: Path) -> bool:
    """Tell whether a database that is refused is whole: another program's, or another version's."""
    try:
        with contextlib.closing(connect(out / NAME)) as db:
            return [row[0] for row in db.execute("PRAGMA integrity_check(1)")] == ["ok"] and bool(
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            )
    except sqlite3.DatabaseError:
        return False


def _salvage(out: Path) -> tuple[Path, dict[str, int]]:
    """Put a new database with everything that can be read in place of a damaged one.

    Returns:
        Where the damaged one is now, and how many records of each table are lost, as far as they can be counted.

    Raises:
        StoreError: no record can be read.
    """
    with tempfile.TemporaryDirectory(dir=out, prefix=".repair-") as scratch:
        copy, fresh = Path(scratch) / "damaged", Path(scratch) / "fresh"
        copy.mkdir()
        for name in (NAME, f"{NAME}-wal"):
            if (out / name).is_file():
                shutil.copyfile(out / name, copy / name)
        Database.open(fresh, create=True).close()
        lost = _copy_rows(copy, fresh)
        kept = next(p for n in range(1, 1000) if not (p := out / f"{_DAMAGED}-{n}").exists())
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.replace(out / f"{NAME}{suffix}", kept.with_name(kept.name + suffix))
        os.replace(fresh / NAME, out / NAME)
    return kept, lost


def _copy_rows(copy: Path, fresh: Path) -> dict[str, int]:
    """Copy what can be read from a damaged database into a fresh one.

    Returns:
        Table to the number of records that could not be read.

    Raises:
        StoreError: none could.
    """
    path = copy / NAME
    lost, kept = dict[str, int](), 0
    if not _has_tables(path):
        _replace_first_page(path, fresh / NAME)
    with (
        contextlib.closing(Database.open(fresh, create=False)) as target,
        translated(path),
        contextlib.closing(connect(path)) as source,
        target.transaction() as db,
    ):
        for table in SEALED:
            rows, missing = _readable(source, table)
            kept += sum(_insert(db, table, row) for row in rows)
            lost |= {table: missing} if missing else {}
    if not kept:
        raise StoreError(f"{path.name}: expected records that can be read, got none. Restore it from a copy or a pack.")
    return lost


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
    """Insert a record as it was read, with its old seal; one of a format without seals gets one."""
    known = {r["name"] for r in db.execute(f"PRAGMA table_info({table})")}
    values = {name: value for name, value in row.items() if name in known}
    try:
        if "seal" in row:
            insert(db, table, values)
        else:
            seals.put(db, table, values)
    except sqlite3.IntegrityError:  # a damaged key that another record has
        return False
    return True


def _has_tables(path: Path) -> bool:
    try:
        with contextlib.closing(connect(path)) as db:
            names = {row["name"] for row in db.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError:
        return False
    return set(SEALED) <= names


def _replace_first_page(path: Path, fresh: Path) -> None:
    """Replace a damaged first page, which holds the tables' places, by that of a new store: they are the same."""
    page = bytearray(fresh.read_bytes()[:4096])
    pages = max(1, path.stat().st_size // len(page))
    page[_PAGE_COUNT] = pages.to_bytes(4, "big") + bytes(4)
    with path.open("r+b") as stream:
        stream.write(page)
    path.with_name(f"{NAME}-wal").unlink(missing_ok=True)


def _readable(db: sqlite3.Connection, table: str) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of a table that can be read, and how many of those between them cannot."""
    rows: dict[int, dict[str, Any]] = {}
    try:
        for row in db.execute(f"SELECT rowid AS place, * FROM {table} ORDER BY rowid"):
            rows[int(row["place"])] = dict(row)
    except sqlite3.DatabaseError:
        return _probed(db, table, rows)
    return list(_without_place(rows)), 0


def _probed(db: sqlite3.Connection, table: str, rows: dict[int, dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Read a damaged table's rows one by one, by the rowids that its index holds.

    Returns:
        The rows, and how many of the index's cannot be read.
    """
    known = set[int]()
    with contextlib.suppress(sqlite3.DatabaseError):  # plans have no index
        for (place,) in db.execute(f"SELECT rowid FROM {table} INDEXED BY sqlite_autoindex_{table}_1"):
            known.add(int(place))
    first = max(rows, default=0) + 1
    for place in sorted({*known, *range(first, first + _PROBED)} - rows.keys()):
        with contextlib.suppress(sqlite3.DatabaseError):
            found = db.execute(f"SELECT rowid AS place, * FROM {table} WHERE rowid=:place", {"place": place}).fetchone()
            if found is not None:
                rows[place] = dict(found)
    return list(_without_place(rows)), len(known - rows.keys())


def _without_place(rows: Mapping[int, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows.values():
        yield {name: value for name, value in row.items() if name != "place"}
