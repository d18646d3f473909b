"""A store that came from elsewhere: refuse what could act when it is used, and note what did not come with it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

from bench.core.errors import SecurityError, StoreError
from bench.store import serialise
from bench.store.database import NAME, TABLES
from bench.store.records import LEFT_OUT
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
    """Note in a store which trained models' weights are not there, and return how many; `weights` are."""
    missing = 0
    with translated(folder / NAME), contextlib.closing(sqlite3.connect(folder / NAME, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        sql = "SELECT id, info FROM cells WHERE kind='train' AND status='done'"
        for cell, text in db.execute(sql).fetchall():
            info = json.loads(text)
            if info.get("weights") not in weights:
                missing += 1
                values = {"info": serialise.dump_json(info | {LEFT_OUT: True}), "id": cell}
                db.execute("UPDATE cells SET info=:info WHERE id=:id", values)
        db.execute("COMMIT")
    return missing
