"""The result store: one SQLite file that survives kill -9 at any instant.

WAL mode with `synchronous=FULL`: what `put_chunk` has returned from is on disk. A cell is claimed by a lease that
carries a generation; a worker whose lease was taken over cannot commit late. Tables are stored as Arrow IPC with
their SHA-256, one row per chunk. Reading needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.core.records import Column
from bench.store import serialise
from bench.store.database import Database
from bench.store.leases import Leases, require_lease, touch
from bench.store.plans import Plans
from bench.store.records import LEFT_OUT, CellRecord, Info, Lease, cell_record
from bench.store.sqlite import insert

_SERIAL = pa.ipc.IpcReadOptions(use_threads=False)  # chunks are small: handing them to threads costs twice the reading
_CELL = "SELECT id, kind, status, seconds, error, info, spec FROM cells"


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
        """
        data = serialise.pack_table(table, columns)
        packed = serialise.pack_arrays(images) if images else None
        values = {
            "cell": lease.cell,
            "number": number,
            "data": data,
            "sha256": sha256_of(data),
            "images": packed,
            "images_sha256": sha256_of(packed) if packed else None,
            "info": serialise.dump_json(info),
        }
        self._write(lease, "chunks", values)

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
            insert(db, table, values, replace=True)
            touch(db, lease)

    def finish(self, lease: Lease, info: Mapping[str, Any]) -> None:
        """Mark a cell done.

        Args:
            lease: the right to write the cell.
            info: counts, seconds and hashes of the whole cell.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        self._end(lease, "done", None, info)

    def fail(self, lease: Lease, error: str) -> None:
        """Mark a cell failed, with its cause; the next run tries it again.

        Args:
            lease: the right to write the cell.
            error: the cause.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        self._end(lease, "failed", error, {})

    def _end(self, lease: Lease, status: str, error: str | None, info: Mapping[str, Any]) -> None:
        with self._database.transaction() as db:
            require_lease(db, lease)
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

    def cell(self, cell: str) -> CellRecord | None:
        """Return what is known of a cell, None if it was never claimed."""
        rows = self._database.query(f"{_CELL} WHERE id=:id", {"id": cell})
        return cell_record(rows[0]) if rows else None

    def cells(self, kind: str) -> list[CellRecord]:
        """Return all cells of a kind ("train" or "evaluation")."""
        return [
            cell_record(row) for row in self._database.query(f"{_CELL} WHERE kind=:kind ORDER BY rowid", {"kind": kind})
        ]

    def chunk_info(self, cell: str) -> dict[int, Info]:
        """Return number to info (counts, seconds) of every stored chunk."""
        rows = self._database.query("SELECT number, info FROM chunks WHERE cell=:cell", {"cell": cell})
        return {row["number"]: json.loads(row["info"]) for row in rows}

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
        tables = []
        sql = "SELECT number, data, sha256 FROM chunks WHERE cell=:cell ORDER BY number"
        for row in self._database.query(sql, {"cell": cell}):
            self._verify(row["data"], row["sha256"], f"chunk {row['number']} of cell {cell[:12]}")
            tables.append(pa.ipc.open_stream(row["data"], options=_SERIAL).read_all())
        return pa.concat_tables(tables, promote_options="permissive") if tables else None

    def images(self, cell: str) -> dict[str, np.ndarray]:
        """Return the stored images of a cell: index (m,), clean and adversarial (m, C, H, W), prediction (m,).

        Raises:
            IntegrityError: a chunk's images do not match their SHA-256.
        """
        parts = []
        sql = "SELECT number, images, images_sha256 FROM chunks WHERE cell=:cell AND images IS NOT NULL ORDER BY number"
        for row in self._database.query(sql, {"cell": cell}):
            self._verify(row["images"], row["images_sha256"], f"pictures of chunk {row['number']} of cell {cell[:12]}")
            parts.append(serialise.unpack_arrays(row["images"]))
        return {key: np.concatenate([p[key] for p in parts]) for key in parts[0]} if parts else {}

    def log(self, cell: str) -> list[Info]:
        """Return the training log of a cell, one record per epoch."""
        rows = self._database.query("SELECT record FROM epochs WHERE cell=:cell ORDER BY epoch", {"cell": cell})
        return [json.loads(row["record"]) for row in rows]

    def _verify(self, data: bytes, expected: str, what: str) -> None:
        if (found := sha256_of(data)) != expected:
            raise IntegrityError(
                f"{self._database.path}: {what}: expected SHA-256 {expected[:12]}, got {found[:12]}. The store was "
                "changed outside bench: restore it, or delete the folder and run again."
            )
