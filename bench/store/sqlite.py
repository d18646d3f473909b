"""SQLite as the store uses it: connections that wait for each other, and its errors in our words."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.errors import LockedError, MachineError, StoreError

WAIT_SECONDS = 60.0


def connect(path: Path) -> sqlite3.Connection:
    """Open a database without implicit transactions; nothing is written.

    Returns:
        The connection, with rows by column name.

    Raises:
        sqlite3.OperationalError: it cannot be opened.
    """
    return _prepared(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None))


def connect_unchanging(path: Path) -> sqlite3.Connection:
    """Open a database that nobody can change, without locks and without files beside it.

    Returns:
        The connection, with rows by column name.

    Raises:
        sqlite3.OperationalError: it cannot be opened.
    """
    address = f"{path.resolve().as_uri()}?immutable=1"
    return _prepared(sqlite3.connect(address, uri=True, isolation_level=None))


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    db.row_factory = sqlite3.Row
    db.text_factory = partial(str, encoding="utf-8", errors="replace")  # text that is none is then found by its seal
    db.execute("PRAGMA trusted_schema=OFF")
    return db


def use_wal(db: sqlite3.Connection) -> None:
    """Set write-ahead mode, durable at each commit.

    SQLite waits for a lock by itself, but not while two processes change a new file's mode at the same time: that
    is tried again here.

    Raises:
        sqlite3.OperationalError: the file stays locked.
    """
    patience = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any], *, replace: bool = False) -> sqlite3.Cursor:
    """Insert a row.

    Args:
        db: the connection.
        table: name of the table.
        values: column to value.
        replace: replace a row of the same primary key.

    Returns:
        The cursor of the statement.
    """
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    verb = "INSERT OR REPLACE" if replace else "INSERT"
    return db.execute(f"{verb} INTO {table} ({names}) VALUES ({places})", dict(values))


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, by what the user can do about them."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise LockedError(
                f"{path}: expected the store within 60 s, got {text!r}. Wait for the other run."
            ) from error
        if "malformed" in text or "no such table" in text or "no such column" in text:
            raise StoreError(
                f"{path}: expected a sound database, got {text!r}. Run python -m bench store repair, restore it, or "
                "choose another --out."
            ) from error
        raise MachineError(
            f"{path}: expected to read and write here, got {text!r}. Check free space and permissions, "
            "or choose another --out."
        ) from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{path}: expected a SQLite store of bench, got {str(error)!r}. Run python -m bench store repair, restore "
            "it, or choose another --out."
        ) from error
