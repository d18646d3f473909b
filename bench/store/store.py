"""The result store: one SQLite file that survives kill -9 at any instant.

WAL mode with `synchronous=FULL`: what `put_chunk` has returned from is on disk. A cell is claimed by a lease that
carries a generation; a worker whose lease was taken over cannot commit late. Tables are stored as Arrow IPC with
their SHA-256, one row per chunk. Reading needs no torch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.core.records import Column
from bench.core.text import one_line
from bench.store import seals, serialise
from bench.store.database import Database
from bench.store.health import Problem, file_problems, record_problems
from bench.store.leases import Leases, require_lease, touch
from bench.store.packed_chunk import PackedChunk, pack_chunk
from bench.store.plans import Plans
from bench.store.records import (
    LEFT_OUT,
    RESTORE,
    CellRecord,
    CellStatus,
    Info,
    Lease,
    cell_record,
    cell_status,
    parsed_object,
)
from bench.store.repair import drop_damaged

T = TypeVar("T")


class Store:
    """The store of one result folder. Use as a context manager; one instance per thread.

    Attributes:
        leases: who may write which cell.
        plans: the plans of the commands.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.leases = Leases(database)
        self.plans = Plans(database)

    @classmethod
    def open(cls, out: str | Path, *, create: bool = False) -> Store:
        """Open the store of folder `out`.

        Args:
            out: the result folder.
            create: make folder and store when they do not exist.

        Returns:
            The open store; close it, or use it in a `with` block.

        Raises:
            MachineError: no store there (and not `create`), no right to write, network file system.
            StoreError: the file is damaged or was written by another version of bench.
        """
        return cls(Database.open(Path(out), create=create))

    @property
    def out(self) -> Path:
        """The result folder."""
        return self._database.out

    def close(self) -> None:
        """Close the database file."""
        self._database.close()

    def __enter__(self) -> Store:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the store."""
        self.close()

    def drop_damaged(self) -> list[str]:
        """Remove the records that are not as they were written, so that their cells are computed again.

        Returns:
            What was removed, in words.
        """
        return [str(problem) for problem in drop_damaged(self._database, parse=False)]

    def problems(self) -> list[Problem]:
        """Return every record, weights file and checkpoint that is not as it was written."""
        return [*record_problems(self._database, parse=False), *file_problems(self.out)]

    def put_chunk(
        self,
        lease: Lease,
        number: int,
        table: pd.DataFrame,
        images: Mapping[str, np.ndarray] | None,
        info: Mapping[str, Any],
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        """Store one chunk of an evaluation cell; when this returns it is on disk.

        Args:
            lease: the right to write the cell.
            number: the chunk's number.
            table: one row per image, with `index` and `label`.
            images: index, clean, adversarial and prediction of the stored images; None: there are none.
            info: counts and seconds.
            columns: name to what the column is.

        Raises:
            LeaseLost: another process has taken the cell over.
            UsageError: the images are more than a chunk can hold.
        """
        self.put_packed(lease, pack_chunk(number, table, images, info, columns, cell=lease.cell))

    def put_packed(self, lease: Lease, chunk: PackedChunk) -> None:
        """Store one chunk of an evaluation cell as it was packed; when this returns it is on disk.

        Args:
            lease: the right to write the cell.
            chunk: of it.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        self._write(lease, "chunks", _chunk_values(lease, chunk))

    def put_epoch(self, lease: Lease, record: Mapping[str, Any]) -> None:
        """Store one epoch's record of a training log; a repeated epoch replaces the old record.

        Args:
            lease: the right to write the cell.
            record: `epoch` and whatever is logged.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        values = {"cell": lease.cell, "epoch": record["epoch"], "record": serialise.dump_json(record)}
        self._write(lease, "epochs", values)

    def _write(self, lease: Lease, table: str, values: Mapping[str, Any]) -> None:
        with self._database.transaction() as db:
            require_lease(db, lease)
            seals.put(db, table, values, replace=True)
            touch(db, lease)

    def finish(self, lease: Lease, info: Mapping[str, Any], last: PackedChunk | None = None) -> None:
        """Mark a cell done.

        Args:
            lease: the right to write the cell.
            info: counts, seconds and hashes of the whole cell.
            last: a chunk that is stored in the same transaction; None: all of them are stored.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        self._end(lease, "done", None, info, last)

    def fail(self, lease: Lease, error: str) -> None:
        """Mark a cell failed, with its cause; the next run tries it again.

        Args:
            lease: the right to write the cell.
            error: the cause.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        self._end(lease, "failed", one_line(error), {})

    def _end(
        self, lease: Lease, status: str, error: str | None, info: Mapping[str, Any], last: PackedChunk | None = None
    ) -> None:
        with self._database.transaction() as db:
            require_lease(db, lease)
            if last is not None:
                seals.put(db, "chunks", _chunk_values(lease, last), replace=True)
                touch(db, lease)
            db.execute(
                "UPDATE cells SET status=:status, error=:error, info=:info, seconds=:seconds, owner=NULL WHERE id=:id",
                {
                    "status": status,
                    "error": error,
                    "info": serialise.dump_json(info),
                    "seconds": info.get("wall_seconds"),
                    "id": lease.cell,
                },
            )
            seals.seal(db, "cells", "id=:id", {"id": lease.cell})

    def cell(self, cell: str) -> CellRecord | None:
        """Return what is known of a cell, None if it was never claimed.

        Raises:
            IntegrityError: the record was changed outside bench.
        """
        found = self._cells("id=:id", {"id": cell})
        return found[0] if found else None

    def cells(self, kind: str) -> list[CellRecord]:
        """Return all cells of a kind ("train" or "evaluation").

        Raises:
            IntegrityError: a record was changed outside bench.
        """
        return self._cells("kind=:kind ORDER BY rowid", {"kind": kind})

    def status_of(self, cell: str) -> CellStatus | None:
        """Return how far a cell is, None if it was never claimed: `cell` without what it was made of.

        Raises:
            IntegrityError: the record was changed outside bench.
        """
        rows = self._database.rows("cells", "id=:id", {"id": cell})
        return cell_status(rows[0], self._where("cells", rows[0])) if rows else None

    def last_by_name(self) -> dict[str, str]:
        """Return name of a job to the id of the last stored cell of that name."""
        sql = (
            "SELECT id, CASE WHEN json_valid(spec) THEN json_extract(spec, '$.name') END AS name FROM cells "
            "ORDER BY kind='evaluation', rowid"
        )
        return {str(row["name"]): row["id"] for row in self._database.query(sql) if row["name"] is not None}

    def _cells(self, condition: str, values: Mapping[str, str]) -> list[CellRecord]:
        rows = self._database.rows("cells", condition, values)
        return [cell_record(row, self._where("cells", row)) for row in rows]

    def _where(self, table: str, row: sqlite3.Row) -> str:
        return f"{self._database.path}: {self._database.described(table, row)}"

    def chunk_info(self, cell: str) -> dict[int, Info]:
        """Return number to info (counts, seconds) of every stored chunk.

        Raises:
            IntegrityError: a record was changed outside bench.
        """
        rows = self._database.rows("chunks", "cell=:cell ORDER BY number", {"cell": cell})
        return {row["number"]: parsed_object(row["info"], self._where("chunks", row)) for row in rows}

    def lacks_images(self, cell: str) -> bool:
        """Tell whether some of a cell's images were left out when the folder was packed."""
        return any(LEFT_OUT in info for info in self.chunk_info(cell).values())

    def table(self, cell: str) -> pd.DataFrame:
        """Return the rows of all stored chunks of a cell, in order; empty if there are none.

        Raises:
            IntegrityError: a chunk does not match its SHA-256, or does not parse.
        """
        table = self.arrow_table(cell)
        return pd.DataFrame() if table is None else table.to_pandas(use_threads=False)

    def arrow_table(self, cell: str) -> pa.Table | None:
        """Return the same rows as an Arrow table, which is several times cheaper; None if there are none.

        Raises:
            IntegrityError: a chunk does not match its SHA-256, or does not parse.
        """
        rows = self._database.rows("chunks", "cell=:cell ORDER BY number", {"cell": cell}, more=("data",))
        parts = [self._read(row, "data", "sha256", bytes) for row in rows]
        try:
            return serialise.unpack_tables(parts) if parts else None
        except (ValueError, pa.ArrowException):
            tables = [self._read(row, "data", "sha256", serialise.unpack_table) for row in rows]  # names the chunk
            return pa.concat_tables(tables, promote_options="permissive")

    def images(self, cell: str) -> dict[str, np.ndarray]:
        """Return the stored images of a cell: index (m,), clean and adversarial (m, C, H, W), prediction (m,).

        Raises:
            IntegrityError: a chunk's images do not match their SHA-256, or do not parse.
        """
        condition = "cell=:cell AND images IS NOT NULL ORDER BY number"
        rows = self._database.rows("chunks", condition, {"cell": cell}, more=("images",))
        parts = [self._read(row, "images", "images_sha256", serialise.unpack_arrays) for row in rows]
        return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]} if parts else {}

    def log(self, cell: str) -> list[Info]:
        """Return the training log of a cell, one record per epoch.

        Raises:
            IntegrityError: a record was changed outside bench.
        """
        rows = self._database.rows("epochs", "cell=:cell ORDER BY epoch", {"cell": cell})
        return [parsed_object(row["record"], self._where("epochs", row)) for row in rows]

    def _read(self, row: sqlite3.Row, blob: str, sha: str, unpack: Callable[[bytes], T]) -> T:
        """Return what a blob of a chunk holds.

        Raises:
            IntegrityError: it does not match its SHA-256, or does not parse.
        """
        where, data = self._where("chunks", row), bytes(row[blob])
        if (found := sha256_of(data)) != row[sha]:
            raise IntegrityError(
                f"{where}: expected {blob} with SHA-256 {row[sha][:12]}, got {found[:12]}. Run the command again, or "
                "python -m bench store repair, which keeps what is intact."
            )
        try:
            return unpack(data)
        except ValueError as error:
            raise IntegrityError(f"{where}: expected {blob} that can be read, got {error}. {RESTORE}") from error


def _chunk_values(lease: Lease, chunk: PackedChunk) -> Mapping[str, str | int | bytes | None]:
    """Return a chunk as a row of its table."""
    return {
        "cell": lease.cell,
        "number": chunk.number,
        "data": chunk.data,
        "sha256": sha256_of(chunk.data),
        "images": chunk.images,
        "images_sha256": sha256_of(chunk.images) if chunk.images else None,
        "info": serialise.dump_json(chunk.info),
    }
