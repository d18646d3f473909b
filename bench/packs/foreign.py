"""A store that came from elsewhere: refuse what could act when it is used, and note what did not come with it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from bench.core.errors import SecurityError, StoreError
from bench.store import seals, serialise
from bench.store.bounded import MOST_IMAGES, MOST_ROWS, MOST_TABLE, announced_arrays, announced_table
from bench.store.database import NAME, TABLES, Database
from bench.store.records import LEFT_OUT, parsed_object
from bench.store.sqlite import translated

_TABLES = {*TABLES, "sqlite_sequence"}
MOST_CELL: Final = 1_000_000_000  # bytes that the images of one cell may unfold to
MOST_RATIO: Final = 100  # of images unfolded to stored, over the whole store, beyond `SLACK`
SLACK: Final = 64_000_000
MOST_TEXT: Final = 20_000_000  # bytes of one record of the store


def check_foreign(folder: Path) -> None:
    """Refuse a store from elsewhere that holds more than tables, or unfolds to too much, before it is used.

    Raises:
        SecurityError: it holds a trigger, a view, an index, a computed column or an unknown table, which could act
            when it is used; a table or the images of a chunk or cell unfold to more than ours can.
        StoreError: it is damaged.
    """
    path = folder / NAME
    with translated(path), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA trusted_schema=OFF")
        db.execute("PRAGMA cell_size_check=ON")
        _check_schema(db)
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"{NAME}: expected a sound database, got {verdict!r}. Fetch the pack again.")
        _check_sizes(db)


def _check_schema(db: sqlite3.Connection) -> None:
    """Refuse everything but plain tables of a result store with plain columns, and SQLite's own indexes on them."""
    for kind, name, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall():
        plain = kind == "table" and name in _TABLES
        if not (plain or (kind == "index" and table in _TABLES and sql is None)):
            raise _refused(f"expected nothing but the tables of a result store, got a {kind} named {str(name)[:80]!r}")
        columns = db.execute("SELECT name, hidden, dflt_value FROM pragma_table_xinfo(:t)", {"t": name}).fetchall()
        acts = [c for c, hidden, default in columns if hidden or "(" in str(default or "")] if plain else []
        if acts or (plain and "CHECK" in str(sql).upper()):
            raise _refused(f"expected plain columns in {name}, got {', '.join(acts)[:80] or 'a condition'}")


def _check_sizes(db: sqlite3.Connection) -> None:
    """Refuse chunks that unfold to more than the store writes; only their announcements are read."""
    stored = unfolded = 0
    cells: dict[str, int] = {}
    for cell, number, data, images in db.execute("SELECT cell, number, data, images FROM chunks"):
        where = f"chunk {number} of cell {str(cell)[:12]}"
        try:
            size, rows, *_ = announced_table(data)
            pictures = announced_arrays(images) if images is not None else 0
        except (ValueError, TypeError) as error:
            raise StoreError(f"{NAME}: {where}: expected a stored table, got {error}. Fetch the pack again.") from error
        if size > MOST_TABLE or rows > MOST_ROWS or pictures > MOST_IMAGES:
            raise _refused(
                f"{where}: expected at most {MOST_IMAGES:,} bytes, got {max(size, pictures):,} in {rows:,} rows"
            )
        stored, unfolded = stored + len(images or b""), unfolded + pictures
        cells[cell] = cells.get(cell, 0) + pictures
    if unfolded > MOST_RATIO * stored + SLACK or max(cells.values(), default=0) > MOST_CELL:
        raise _refused(
            f"expected pictures that unfold to at most {MOST_RATIO} times their size, got {unfolded:,} bytes"
        )
    for table, column in (
        ("cells", "spec"),
        ("cells", "info"),
        ("chunks", "info"),
        ("epochs", "record"),
        ("plans", "plan"),
    ):
        (longest,) = db.execute(f"SELECT max(length(CAST({column} AS BLOB))) FROM {table}").fetchone()
        if (longest or 0) > MOST_TEXT:
            raise _refused(f"{table}.{column}: expected at most {MOST_TEXT:,} bytes, got {longest:,}")


def _refused(what: str) -> SecurityError:
    return SecurityError(f"{NAME}: {what}. Do not use this pack.")


def mark_left_out(folder: Path, weights: set[str]) -> int:
    """Note in a store which trained models' weights are not there; `weights` are.

    Returns:
        How many are not.

    Raises:
        IntegrityError: a record was changed outside bench.
    """
    missing = 0
    with contextlib.closing(Database.open(folder, create=False)) as database, database.transaction() as db:
        for row in database.rows("cells", "kind='train' AND status='done'", {}):
            info = parsed_object(row["info"], str(database.path))
            if info.get("weights") not in weights:
                missing += 1
                values = {"info": serialise.dump_json(info | {LEFT_OUT: True}), "id": row["id"]}
                db.execute("UPDATE cells SET info=:info WHERE id=:id", values)
                seals.seal(db, "cells", "id=:id", values)
    return missing
