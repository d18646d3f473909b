"""The SQLite file of a store: its tables, its format, and transactions on it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core import files
from bench.core.errors import MachineError, StoreError
from bench.store.sqlite import connect, translated

FORMAT = 2
NAME = "bench.db"
CREATION_SECONDS = 5.0  # how long a reader waits for another process that is just creating the store
UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {}  # format to what makes the next one of it
TABLES = ("meta", "cells", "chunks", "epochs", "plans", "bindings")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL, seconds REAL, error TEXT,
    info TEXT NOT NULL DEFAULT '{}', generation INTEGER NOT NULL DEFAULT 0, owner TEXT, heartbeat REAL);
CREATE TABLE IF NOT EXISTS chunks (
    cell TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, sha256 TEXT NOT NULL, images BLOB,
    images_sha256 TEXT, info TEXT NOT NULL, PRIMARY KEY (cell, number));
CREATE TABLE IF NOT EXISTS epochs (
    cell TEXT NOT NULL, epoch INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (cell, epoch));
CREATE TABLE IF NOT EXISTS plans (id INTEGER PRIMARY KEY AUTOINCREMENT, plan TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS bindings (
    plan INTEGER NOT NULL, row INTEGER NOT NULL, evaluation TEXT NOT NULL, cell TEXT NOT NULL,
    PRIMARY KEY (plan, row, evaluation));
"""


class Database:
    """An open database file; one instance per thread."""

    def __init__(self, out: Path, connection: sqlite3.Connection) -> None:
        self.out = out
        self.path = out / NAME
        self.connection = connection

    @classmethod
    def open(cls, out: Path, *, create: bool) -> Database:
        """Open the database of folder `out`, and bring an older format up to date.

        Args:
            out: the result folder.
            create: make folder and database when they do not exist.

        Returns:
            The open database.

        Raises:
            MachineError: no database there (and not `create`), no right to write, network file system.
            StoreError: the file is damaged, is no store, or has a format that this version cannot read.
        """
        path = out / NAME
        if create:
            files.require_local(out)
            files.make_folder(out)
        elif not path.is_file():
            raise MachineError(
                f"{out}: expected a result folder with {NAME}, found none. Run `python -m bench run --out {out}` first."
            )
        with translated(path):
            connection = connect(path)
            try:
                database = cls(out, connection)
                database._prepare(create)
            except BaseException:
                connection.close()
                raise
        return database

    def _prepare(self, create: bool) -> None:
        """Create the tables of a new database, or check and upgrade those of an old one."""
        tables = self._wait_for_tables(0.0 if create else CREATION_SECONDS)
        if "meta" in tables:
            rows = self.query("SELECT value FROM meta WHERE key='format'")
            self._upgrade(str(rows[0]["value"]) if rows else "none")
            return
        if tables or not create:
            raise StoreError(f"{self.path}: expected a store of bench, got another database. Choose another --out.")
        self.connection.executescript(
            f"BEGIN IMMEDIATE;{_SCHEMA}INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}'); COMMIT;"
        )

    def _wait_for_tables(self, seconds: float) -> set[str]:
        """Return the names of the tables; a file that another process has just made has none for a moment."""
        patience = time.monotonic() + seconds
        while not (names := {r["name"] for r in self.query("SELECT name FROM sqlite_master WHERE type='table'")}):
            if time.monotonic() >= patience:
                break
            time.sleep(0.05)
        return names

    def _upgrade(self, found: str) -> None:
        """Bring a database of an older format to `FORMAT`, one format after the other, in one transaction.

        Raises:
            StoreError: it is newer, or there is no way from its format.
        """
        if found == str(FORMAT):
            return
        expected = f"{self.path}: expected store format {FORMAT}, got {found}, written by"
        if not found.isdecimal() or int(found) > FORMAT:
            raise StoreError(f"{expected} a newer bench. Upgrade bench, or choose another --out.")
        steps = range(int(found), FORMAT)
        if any(step not in UPGRADES for step in steps):
            raise StoreError(f"{expected} an older bench. Choose another --out, or use that version.")
        with self.transaction() as db:
            for step in steps:
                UPGRADES[step](db)
            db.execute("UPDATE meta SET value=:format WHERE key='format'", {"format": str(FORMAT)})

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one immediate transaction; everything in it is committed, or nothing."""
        with translated(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, values: Mapping[str, Any] | None = None) -> list[sqlite3.Row]:
        """Return the rows of a SELECT, with columns by name.

        Args:
            sql: the statement, with `:name` for values.
            values: by name.
        """
        with translated(self.path):
            return self.connection.execute(sql, values or {}).fetchall()
