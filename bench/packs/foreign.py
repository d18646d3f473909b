"""A store that came from elsewhere: refuse what could act when it is used, and note what did not come with it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from bench.core.errors import SecurityError, StoreError
from bench.store import seals, serialise
from bench.store.database import NAME, TABLES, Database
from bench.store.records import LEFT_OUT, parsed_object
from bench.store.sqlite import translated

_TABLES = {*TABLES, "sqlite_sequence"}


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
