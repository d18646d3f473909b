"""The SQLite file of a store: its tables, its format, and transactions on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core import files
from bench.core.errors import IntegrityError, MachineError, StoreError
from bench.store.seals import SEALED, is_sealed
from bench.store.sqlite import connect, connect_unchanging, translated, use_wal
from bench.store.upgrades import UPGRADES, NoWayError

FORMAT = 3
NAME = "bench.db"
CREATION_SECONDS = 5.0  # how long a reader waits for another process that is just creating the store
TABLES = ("meta", *SEALED)
SOUND = (
    "a record as it was written, got a changed one. Run the command again, or python -m bench store repair, which "
    "keeps what is intact."
)
_TRACES = ("weights", "checkpoints", "manifest.json")  # a folder with one of them has had a store
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cells (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL, status TEXT NOT NULL, seconds REAL, error TEXT,
    info TEXT NOT NULL DEFAULT '{}', generation INTEGER NOT NULL DEFAULT 0, owner TEXT, heartbeat REAL, seal TEXT);
CREATE TABLE IF NOT EXISTS chunks (
    cell TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, sha256 TEXT NOT NULL, images BLOB,
    images_sha256 TEXT, info TEXT NOT NULL, seal TEXT, PRIMARY KEY (cell, number));
CREATE TABLE IF NOT EXISTS epochs (
    cell TEXT NOT NULL, epoch INTEGER NOT NULL, record TEXT NOT NULL, seal TEXT, PRIMARY KEY (cell, epoch));
CREATE TABLE IF NOT EXISTS plans (
    id INTEGER PRIMARY KEY AUTOINCREMENT, plan TEXT NOT NULL, seal TEXT, digest TEXT,
    used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS bindings (
    plan INTEGER NOT NULL, row INTEGER NOT NULL, evaluation TEXT NOT NULL, cell TEXT NOT NULL, seal TEXT,
    PRIMARY KEY (plan, row, evaluation));
"""


class Database:
    """An open database file; one instance per thread."""

    def __init__(self, out: Path, connection: sqlite3.Connection) -> None:
        self.out = out
        self.path = out / NAME
        self.connection = connection
        self._held = contextlib.ExitStack()

    @classmethod
    def open(cls, out: Path, *, create: bool) -> Database:
        """Open the database of folder `out`, and bring an older format up to date.

        Nothing is written before the file is known to be a store. In a folder without write access it is read as it
        is, or from a temporary copy.

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
        if path.is_file() and not path.stat().st_size and any((out / trace).exists() for trace in _TRACES):
            raise StoreError(
                f"{path}: expected the store of this folder, got an empty file. Restore it or choose another --out."
            )
        with translated(path):
            if not create and not (os.access(out, os.W_OK) and os.access(path, os.W_OK)):
                return cls._open_unwritable(out)
            return cls._opened(out, connect(path), create)

    @classmethod
    def _opened(cls, out: Path, connection: sqlite3.Connection, create: bool) -> Database:
        try:
            database = cls(out, connection)
            database._prepare(create)
        except BaseException:
            connection.close()
            raise
        return database

    @classmethod
    def _open_unwritable(cls, out: Path) -> Database:
        """Open the database of a folder that cannot be written: in place if it is whole and of this format."""
        log = out / f"{NAME}-wal"
        if not (log.is_file() and log.stat().st_size):
            database = cls(out, connect_unchanging(out / NAME))
            try:
                if database._found_format() == str(FORMAT):
                    return database
            except BaseException:
                database.close()
                raise
            database.close()
        with contextlib.ExitStack() as held:
            scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            for path in (out / NAME, log):
                if path.is_file():
                    shutil.copyfile(path, scratch / path.name)
            database = cls._opened(out, connect(scratch / NAME), create=False)
            database.connection.execute("PRAGMA query_only=ON")
            database._held = held.pop_all()
        return database

    def _prepare(self, create: bool) -> None:
        """Create the tables of a new database, or check and upgrade those of an old one."""
        found = self._found_format(0.0 if create else CREATION_SECONDS, create=create)
        if found is not None:
            self._upgrade(found)
            return
        use_wal(self.connection)
        self.connection.executescript(
            f"BEGIN IMMEDIATE;{_SCHEMA}INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}'); COMMIT;"
        )

    def _found_format(self, seconds: float = 0.0, *, create: bool = False) -> str | None:
        """Return the format that the file says it has; None for a new file, where one may be created.

        Raises:
            StoreError: it is no store.
        """
        tables = self._wait_for_tables(seconds)
        if not tables and create:
            return None
        rows = self.query("SELECT value FROM meta WHERE key='format'") if "meta" in tables else []
        if not rows:
            raise StoreError(f"{self.path}: expected a store of bench, got another database. Choose another --out.")
        return str(rows[0]["value"])

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
            use_wal(self.connection)
            return
        expected = f"{self.path}: expected store format {FORMAT}, got {found[:20]}, written by"
        if not (found.isascii() and found.isdecimal()) or int(found[:20]) > FORMAT:
            raise StoreError(f"{expected} a newer bench. Upgrade bench, or choose another --out.")
        older = f"{expected} an older bench. Choose another --out, or use that version."
        if any(step not in UPGRADES for step in range(int(found), FORMAT)):
            raise StoreError(older)
        use_wal(self.connection)
        try:
            with self.transaction() as db:
                (now,) = db.execute("SELECT value FROM meta WHERE key='format'").fetchone()
                for step in range(int(now), FORMAT):  # another process may have upgraded it meanwhile
                    UPGRADES[step](db)
                db.execute("UPDATE meta SET value=:format WHERE key='format'", {"format": str(FORMAT)})
        except NoWayError as error:
            raise StoreError(older) from error

    def close(self) -> None:
        """Close the file."""
        self.connection.close()
        self._held.close()

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

    def rows(
        self, table: str, condition: str, values: Mapping[str, Any], *, more: tuple[str, ...] = ()
    ) -> list[sqlite3.Row]:
        """Return the rows of a condition, each proved by its seal.

        Args:
            table: one of `SEALED`.
            condition: in SQL, with `:name` for values; an ORDER BY may follow.
            values: by name.
            more: columns beside those that the seal covers.

        Raises:
            IntegrityError: a row was changed outside bench.
        """
        names = ", ".join((*SEALED[table], *more, "seal"))
        found = self.query(f"SELECT {names} FROM {table} WHERE {condition}", values)
        for row in found:
            if not is_sealed(table, row):
                raise IntegrityError(f"{self.path}: {self.described(table, row)}: expected {SOUND}")
        return found

    @staticmethod
    def described(table: str, row: sqlite3.Row) -> str:
        """Return what a row is, in words: "chunk 3 of cell 0123456789ab".

        Args:
            table: one of `SEALED`.
            row: with the fields of its primary key.
        """
        if table == "plans":
            return f"plan {row['id']}"
        if table == "bindings":
            return f"the cell of {str(row['evaluation'])[:40]!r} in plan {row['plan']}"
        if table == "cells":
            return f"cell {str(row['id'])[:12]}"
        number = row["number"] if table == "chunks" else row["epoch"]
        return f"{table.removesuffix('s')} {number} of cell {str(row['cell'])[:12]}"
