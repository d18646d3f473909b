"""The result store: one SQLite file that survives kill -9 at any instant.

WAL mode with `synchronous=FULL`: what `put_chunk` has returned from is on disk. A cell is claimed by a lease that
carries a generation; a worker whose lease was taken over cannot commit late. Tables are stored as Arrow IPC with
their SHA-256, one row per chunk. Reading needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core import files
from bench.core.errors import IntegrityError, MachineError, StoreError
from bench.core.hashing import sha256_of
from bench.core.records import Column
from bench.store import serialise
from bench.store.leases import is_alive, process_id
from bench.store.plan_record import PlanRecord, parse_plan
from bench.store.records import LEFT_OUT, CellRecord, Lease, LeaseLost, cell_record
from bench.store.sqlite import connect, translated

FORMAT = 2
NAME = "bench.db"
CREATION_SECONDS = 5.0  # how long a reader waits for another process that is just creating the store
_SERIAL = pa.ipc.IpcReadOptions(use_threads=False)  # chunks are small: handing them to threads costs twice the reading
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


class Store:
    """The store of one result folder. Use as a context manager; one instance per thread."""

    def __init__(self, out: Path, connection: sqlite3.Connection) -> None:
        self.out = out
        self._db = connection

    @classmethod
    def open(cls, out: str | Path, *, create: bool = False) -> Store:
        """Open the store of folder `out`.

        Args:
            out: the result folder.
            create: make folder and store when they do not exist.

        Raises:
            MachineError: no store there (and not `create`), no right to write, network file system.
            StoreError: the file is damaged or was written by a newer bench.
        """
        out = Path(out)
        path = out / NAME
        if create:
            files.require_local(out)
            files.make_folder(out)
        elif not path.is_file():
            raise MachineError(
                f"{out}: expected a result folder with {NAME}, found none. Run `python -m bench run --out {out}` first."
            )
        with translated(path):
            db = connect(path)
            try:
                store = cls(out, db)
                store._check_format(create)
            except BaseException:
                db.close()
                raise
        return store

    def _check_format(self, create: bool) -> None:
        query, patience = "SELECT name FROM sqlite_master WHERE type='table'", time.monotonic() + CREATION_SECONDS
        while not (tables := {n for (n,) in self._db.execute(query)}) and not create and time.monotonic() < patience:
            time.sleep(0.05)
        if "meta" in tables:
            row = self._db.execute("SELECT value FROM meta WHERE key='format'").fetchone()
            require_format(str(row[0]) if row else "none", f"{self.out / NAME}")
            return
        if tables or not create:
            raise StoreError(
                f"{self.out / NAME}: expected a store of bench, got another database. Choose another --out."
            )
        self._db.executescript(
            "BEGIN IMMEDIATE;" + _SCHEMA + f"INSERT OR IGNORE INTO meta VALUES ('format', '{FORMAT}'); COMMIT;"
        )

    def close(self) -> None:
        """Close the database file."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One immediate transaction; everything in it is committed, or nothing."""
        with translated(self.out / NAME):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with translated(self.out / NAME):
            return self._db.execute(sql, values).fetchall()

    # Leases

    def claim(self, cell: str, kind: str, spec: dict[str, Any]) -> Lease | None:
        """Take the right to write a cell; None if it is done, or a living worker has it."""
        with self._transaction() as db:
            row = db.execute("SELECT status, generation, owner, heartbeat FROM cells WHERE id=?", (cell,)).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO cells (id, kind, spec, status) VALUES (?, ?, ?, 'pending')",
                    (cell, kind, serialise.dump_json(spec)),
                )
                generation = 0
            else:
                status, generation, owner, heartbeat = row
                if status == "done" or (status == "running" and is_alive(owner, heartbeat)):
                    return None
            db.execute(
                "UPDATE cells SET status='running', error=NULL, generation=?, owner=?, heartbeat=? WHERE id=?",
                (generation + 1, serialise.dump_json(process_id()), time.time(), cell),
            )
            return Lease(cell, generation + 1)

    def heartbeat(self, lease: Lease) -> None:
        """Say that the holder of the lease is alive."""
        with self._transaction() as db:
            self._require(db, lease)
            db.execute("UPDATE cells SET heartbeat=? WHERE id=?", (time.time(), lease.cell))

    def release(self, lease: Lease) -> None:
        """Give an unfinished cell back; what is stored of it stays."""
        with self._transaction() as db:
            db.execute(
                "UPDATE cells SET status='pending', owner=NULL WHERE id=? AND generation=? AND status='running'",
                (lease.cell, lease.generation),
            )

    def reopen(self, cell: str) -> None:
        """Mark a finished cell as unfinished: what it produced outside the store is gone."""
        with self._transaction() as db:
            db.execute("UPDATE cells SET status='pending' WHERE id=? AND status='done'", (cell,))

    def _require(self, db: sqlite3.Connection, lease: Lease) -> None:
        row = db.execute("SELECT generation, status FROM cells WHERE id=?", (lease.cell,)).fetchone()
        if row is None or row[0] != lease.generation or row[1] != "running":
            raise LeaseLost(
                f"cell {lease.cell[:12]}: expected to hold generation {lease.generation}, got {row}. "
                "Another worker has taken it over; nothing was written."
            )

    # Writing

    def put_chunk(
        self,
        lease: Lease,
        number: int,
        table: pd.DataFrame,
        images: dict[str, np.ndarray] | None,
        info: dict[str, Any],
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        """Store one chunk of an evaluation cell, with what its columns are; when this returns it is on disk."""
        data = serialise.pack_table(table, columns)
        pictures = serialise.pack_arrays(images) if images else None
        with self._transaction() as db:
            self._require(db, lease)
            db.execute(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    lease.cell,
                    number,
                    data,
                    _sha(data),
                    pictures,
                    _sha(pictures) if pictures else None,
                    serialise.dump_json(info),
                ),
            )
            db.execute("UPDATE cells SET heartbeat=? WHERE id=?", (time.time(), lease.cell))

    def put_epoch(self, lease: Lease, record: dict[str, Any]) -> None:
        """Store one epoch's record of a training log; a repeated epoch replaces the old record."""
        with self._transaction() as db:
            self._require(db, lease)
            db.execute(
                "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)",
                (lease.cell, record["epoch"], serialise.dump_json(record)),
            )
            db.execute("UPDATE cells SET heartbeat=? WHERE id=?", (time.time(), lease.cell))

    def finish(self, lease: Lease, info: dict[str, Any]) -> None:
        """Mark a cell done."""
        self._end(lease, "done", None, info)

    def fail(self, lease: Lease, error: str, info: dict[str, Any] | None = None) -> None:
        """Mark a cell failed, with its cause; the next run tries it again."""
        self._end(lease, "failed", error, info or {})

    def _end(self, lease: Lease, status: str, error: str | None, info: dict[str, Any]) -> None:
        with self._transaction() as db:
            self._require(db, lease)
            db.execute(
                "UPDATE cells SET status=?, error=?, info=?, seconds=?, owner=NULL WHERE id=?",
                (status, error, serialise.dump_json(info), info.get("seconds"), lease.cell),
            )

    def put_plan(self, plan: PlanRecord) -> int:
        """Store the plan of a command and return its number; the board shows the last one."""
        # Unsorted: the suite's order of evaluations and columns is the board's.
        text = serialise.dump_json(plan.model_dump(mode="json"), sort=False)
        with self._transaction() as db:
            return int(db.execute("INSERT INTO plans (plan) VALUES (?)", (text,)).lastrowid or 0)

    def bind(self, plan: int, row: int, evaluation: str, cell: str) -> None:
        """Say which cell holds an evaluation of a plan's row (known once its weights are)."""
        self.bind_all([(plan, row, evaluation, cell)])

    def bind_all(self, bindings: Iterable[tuple[int, int, str, str]]) -> None:
        """Bind many at once; the same four values each."""
        with self._transaction() as db:
            db.executemany("INSERT OR REPLACE INTO bindings VALUES (?, ?, ?, ?)", bindings)

    # Reading

    def cell(self, cell: str) -> CellRecord | None:
        """Return what is known of a cell, None if it was never claimed."""
        rows = self._query("SELECT id, kind, status, seconds, error, info, spec FROM cells WHERE id=?", cell)
        if not rows:
            return None
        return cell_record(*rows[0])

    def cells(self, kind: str) -> list[CellRecord]:
        """Return all cells of a kind ("train" or "evaluation")."""
        rows = self._query(
            "SELECT id, kind, status, seconds, error, info, spec FROM cells WHERE kind=? ORDER BY rowid", kind
        )
        return [cell_record(*row) for row in rows]

    def holder(self, cell: str) -> str | None:
        """Return who works on a cell now ("host, process n"), None if nobody does."""
        rows = self._query("SELECT status, owner, heartbeat FROM cells WHERE id=?", cell)
        if not rows or rows[0][0] != "running" or not is_alive(rows[0][1], rows[0][2]):
            return None
        owner = json.loads(rows[0][1])
        return f"{owner['host']}, process {owner['pid']}"

    def chunk_info(self, cell: str) -> dict[int, dict[str, Any]]:
        """Return number to info (counts, seconds) of every stored chunk."""
        return {n: json.loads(i) for n, i in self._query("SELECT number, info FROM chunks WHERE cell=?", cell)}

    def lacks_images(self, cell: str) -> bool:
        """Tell whether some of a cell's images were left out when the folder was packed."""
        return any(LEFT_OUT in info for info in self.chunk_info(cell).values())

    def table(self, cell: str) -> pd.DataFrame:
        """Return the rows of all stored chunks of a cell, in order; empty if there are none.

        Raises:
            IntegrityError: a chunk does not match its SHA-256.
        """
        table = self.arrow_table(cell)
        return pd.DataFrame() if table is None else table.to_pandas(use_threads=False)

    def arrow_table(self, cell: str) -> pa.Table | None:
        """Return the same rows as an Arrow table, which is several times cheaper; None if there are none.

        Raises:
            IntegrityError: a chunk does not match its SHA-256.
        """
        tables, where = [], f"{self.out / NAME}"
        for number, data, sha in self._query(
            "SELECT number, data, sha256 FROM chunks WHERE cell=? ORDER BY number", cell
        ):
            _verify(data, sha, f"{where}: chunk {number} of cell {cell[:12]}")
            tables.append(pa.ipc.open_stream(data, options=_SERIAL).read_all())
        return pa.concat_tables(tables, promote_options="permissive") if tables else None

    def images(self, cell: str) -> dict[str, np.ndarray]:
        """Return the stored pictures of a cell: index (m,), clean and adversarial (m, C, H, W), prediction (m,).

        Raises:
            IntegrityError: a chunk's pictures do not match their SHA-256.
        """
        parts = []
        sql = "SELECT number, images, images_sha256 FROM chunks WHERE cell=? AND images IS NOT NULL ORDER BY number"
        for number, data, sha in self._query(sql, cell):
            _verify(data, sha, f"{self.out / NAME}: pictures of chunk {number} of cell {cell[:12]}")
            parts.append(serialise.unpack_arrays(data))
        return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]} if parts else {}

    def log(self, cell: str) -> list[dict[str, Any]]:
        """Return the training log of a cell, one record per epoch."""
        return [json.loads(r) for (r,) in self._query("SELECT record FROM epochs WHERE cell=? ORDER BY epoch", cell)]

    def latest_plan(self) -> PlanRecord:
        """Return the last command's plan, with the cells of its evaluations filled in as far as known.

        Raises:
            StoreError: no command has been planned in this folder yet, or another version of bench planned it.
            IntegrityError: the plan is damaged.
        """
        rows = self._query("SELECT id, plan FROM plans ORDER BY id DESC LIMIT 1")
        if not rows:
            raise StoreError(f"{self.out / NAME}: expected a planned run, found none. Run `python -m bench run` first.")
        number, text = rows[0]
        bindings = self._query("SELECT row, evaluation, cell FROM bindings WHERE plan=?", number)
        cells = {(row, evaluation): cell for row, evaluation, cell in bindings}
        return parse_plan(text, str(self.out / NAME)).bound(cells)


def require_format(found: str, where: str) -> None:
    """Refuse a store of another format.

    Args:
        found: the format as the store says it.
        where: its file.

    Raises:
        StoreError: it is not `FORMAT`.
    """
    if found == str(FORMAT):
        return
    if found.isdecimal() and int(found) < FORMAT:
        raise StoreError(
            f"{where}: expected store format {FORMAT}, got {found}, written by an older bench. "
            "Choose another --out, or use that version."
        )
    raise StoreError(
        f"{where}: expected store format {FORMAT}, got {found}, written by a newer bench. "
        "Upgrade bench, or choose another --out."
    )


def _sha(data: bytes) -> str:
    return sha256_of(data)


def _verify(data: bytes, expected: str, where: str) -> None:
    if (found := _sha(data)) != expected:
        raise IntegrityError(
            f"{where}: expected SHA-256 {expected[:12]}, got {found[:12]}. The store was changed outside bench: "
            "restore it, or delete the folder and run again."
        )
