"""Seals: the SHA-256 of a record's other fields beside it, so that what was changed outside bench is not believed.

A seal is no signature: it finds damage and careless edits. Blobs have a SHA-256 of their own, which the seal covers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from bench.core.hashing import sha256_of
from bench.store.sqlite import insert

SEALED: Final[Mapping[str, tuple[str, ...]]] = {
    "cells": ("id", "kind", "spec", "status", "seconds", "error", "info", "generation"),
    "chunks": ("cell", "number", "sha256", "images_sha256", "info"),
    "epochs": ("cell", "epoch", "record"),
    "plans": ("id", "plan"),
    "bindings": ("plan", "row", "evaluation", "cell"),
}

_PLAIN: Final = (str, int, float, type(None))
_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode


def is_sealed(table: str, row: sqlite3.Row) -> bool:
    """Tell whether a row is as it was written.

    Args:
        table: the row's table.
        row: with the fields of `SEALED` and `seal`.

    Returns:
        False also for one that has no seal.
    """
    return bool(row["seal"] == _seal(table, row))


def _seal(table: str, row: sqlite3.Row) -> str:
    values = [row[name] if isinstance(row[name], _PLAIN) else "" for name in SEALED[table]]
    return sha256_of(_ENCODE([table, *values]).encode())


def put(db: sqlite3.Connection, table: str, values: Mapping[str, Any], *, replace: bool = False) -> int:
    """Insert a row with its seal.

    Args:
        db: the connection, inside a transaction.
        table: one of `SEALED`.
        values: column to value.
        replace: replace a row of the same primary key.

    Returns:
        The row's rowid.
    """
    place = int(insert(db, table, values, replace=replace).lastrowid or 0)
    seal(db, table, "rowid=:place", {"place": place})
    return place


def seal(db: sqlite3.Connection, table: str, condition: str, values: Mapping[str, Any]) -> None:
    """Seal the rows of a condition as they are now.

    Args:
        db: the connection, inside the transaction that has changed them.
        table: one of `SEALED`.
        condition: in SQL, with `:name` for values.
        values: by name.
    """
    names = ", ".join(SEALED[table])
    for row in db.execute(f"SELECT rowid AS place, {names} FROM {table} WHERE {condition}", values).fetchall():
        db.execute(
            f"UPDATE {table} SET seal=:seal WHERE rowid=:place", {"seal": _seal(table, row), "place": row["place"]}
        )
