"""Leases: the right to write one cell, which ends when its holder dies. Only one process computes a cell at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from bench.store import seals, serialise
from bench.store.database import Database
from bench.store.records import Lease, LeaseLost
from bench.store.seals import SEALED, is_sealed

STALE_SECONDS = 120.0  # a holder that cannot be seen counts as dead after this long without a heartbeat
_MOST_PIDS: Final = 2**31
_ABOVE_ALL: Final = 2**32
_ROW: Final = f"SELECT {', '.join(SEALED['cells'])}, seal, owner, heartbeat FROM cells WHERE id=:id"
START_TOLERANCE = 2.0  # seconds; the system's clock may be corrected while a process lives


class Leases:
    """The leases of a store's cells.

    Heartbeats are compared with each other, never with this machine's clock: a holder on another host counts as
    dead once its heartbeat has not changed while this process watched for `STALE_SECONDS`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, tuple[object, float]] = {}  # cell to its last heartbeat, and when it was first seen

    def claim(self, cell: str, kind: str, spec: Mapping[str, Any]) -> Lease | None:
        """Take the right to write a cell.

        Args:
            cell: id of the cell.
            kind: "train" or "evaluation".
            spec: everything that its id was made of.

        Returns:
            The lease, or None.
        """
        values: dict[str, str | int | float] = {"id": cell, "kind": kind, "status": "running"}
        values["spec"] = serialise.dump_json(dict(spec))
        with self._database.transaction() as db:
            row = db.execute(_ROW, {"id": cell}).fetchone()
            if row is not None and ((row["status"] == "done" and is_sealed("cells", row)) or self._is_held(row)):
                return None
            generation = 1 if row is None else next_generation(row["generation"])
            values |= {"generation": generation, "owner": serialise.dump_json(process_id()), "heartbeat": time.time()}
            if row is None:
                seals.put(db, "cells", values)
            else:
                db.execute(
                    "UPDATE cells SET kind=:kind, spec=:spec, status=:status, error=NULL, generation=:generation, "
                    "owner=:owner, heartbeat=:heartbeat WHERE id=:id",
                    values,
                )
                seals.seal(db, "cells", "id=:id", {"id": cell})
            return Lease(cell, generation, row is not None and row["status"] == "running")

    def _is_held(self, row: sqlite3.Row) -> bool:
        """Tell whether somebody who lives computes a cell.

        A holder whose process is gone is dead at once. One that is stopped, on another host or in another container
        is dead once its heartbeat stands still.

        Returns:
            False also for a cell that nobody computes.
        """
        if row["status"] != "running" or not may_live(row["owner"]):
            return False
        heartbeat, now = row["heartbeat"], time.monotonic()
        known, since = self._seen.get(row["id"], (None, now))
        if known != heartbeat:
            since = now
        self._seen[row["id"]] = heartbeat, since
        return now - since < STALE_SECONDS

    def heartbeat(self, lease: Lease) -> None:
        """Record that the holder of a lease is alive.

        Raises:
            LeaseLost: another process has taken the cell over.
        """
        with self._database.transaction() as db:
            require_lease(db, lease)
            touch(db, lease)

    def release(self, lease: Lease) -> None:
        """Give an unfinished cell back; what is stored of it stays."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE cells SET status='pending', owner=NULL "
                "WHERE id=:id AND generation=:generation AND status='running'",
                {"id": lease.cell, "generation": lease.generation},
            )
            seals.seal(db, "cells", "id=:id", {"id": lease.cell})

    def reopen(self, cell: str) -> None:
        """Mark a finished cell as unfinished: what it produced outside the store is gone."""
        with self._database.transaction() as db:
            db.execute("UPDATE cells SET status='pending' WHERE id=:id AND status='done'", {"id": cell})
            seals.seal(db, "cells", "id=:id", {"id": cell})

    def failed_since(self, cell: str, since: float) -> str:
        """Return the cause of a cell's failure under a lease that was taken at or after a time; "" if there is none.

        Args:
            cell: id of the cell.
            since: seconds since the epoch.
        """
        sql = "SELECT error FROM cells WHERE id=:id AND status='failed' AND heartbeat >= :since"
        rows = self._database.query(sql, {"id": cell, "since": since})
        return str(rows[0]["error"]) if rows else ""

    def holder(self, cell: str) -> str | None:
        """Return who computes a cell now ("host, process n"), None if nobody does."""
        rows = self._database.query(_ROW, {"id": cell})
        if not rows or not self._is_held(rows[0]):
            return None
        owner = json.loads(rows[0]["owner"])
        return f"{owner['host']}, process {owner['pid']}"

    def sees_holder(self, cell: str) -> bool:
        """Tell whether the process that computes a cell runs on this host and in this container."""
        rows = self._database.query(_ROW, {"id": cell})
        who = _parsed(rows[0]["owner"]) if rows else None
        return who is not None and _is_here(who)


def next_generation(found: object) -> int:
    """Return a generation above a stored one, and above all that were ever given out if that one is no number."""
    return found + 1 if isinstance(found, int) else _ABOVE_ALL


def require_lease(db: sqlite3.Connection, lease: Lease) -> None:
    """Refuse a write under a lease that is no longer valid.

    Args:
        db: the connection, inside the transaction that writes.
        lease: what the writer holds.

    Raises:
        LeaseLost: another process has taken the cell over.
    """
    row = db.execute("SELECT generation, status FROM cells WHERE id=:id", {"id": lease.cell}).fetchone()
    if row is None or row["generation"] != lease.generation or row["status"] != "running":
        found = "no cell" if row is None else f"generation {row['generation']}, {row['status']}"
        raise LeaseLost(
            f"cell {lease.cell[:12]}: expected to hold generation {lease.generation}, got {found}. "
            "Another worker has taken it over; nothing was written."
        )


def touch(db: sqlite3.Connection, lease: Lease) -> None:
    """Refresh the heartbeat of a lease inside a transaction; it grows even if the clock was set back."""
    sql = "UPDATE cells SET heartbeat=MAX(:now, COALESCE(heartbeat, 0) + 0.001) WHERE id=:id"
    db.execute(sql, {"now": time.time(), "id": lease.cell})


def process_id() -> dict[str, str | int | float]:
    """Return which process this is: host, boot, name space of process ids, pid, and its start (pids are reused)."""
    pid = os.getpid()
    return {"host": socket.gethostname(), **_space(), "pid": pid, "start": psutil.Process(pid).create_time()}


@functools.cache
def _space() -> Mapping[str, str]:
    """Return what tells apart where process ids mean the same: the boot, and the container's name space."""
    found = {"boot": "", "space": ""}
    with contextlib.suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["space"] = os.readlink("/proc/self/ns/pid")
    return found


def may_live(owner: object) -> bool:
    """Tell whether the holder of a lease lives, as far as its process can be seen from here.

    A zombie is dead: a killed process keeps its pid until its parent has asked for it, which may be never. Nothing
    that ran before this host was started lives.

    Args:
        owner: `process_id` of the holder as JSON; None: nobody.

    Returns:
        False for nobody, for a dead process of this host, and for what names no process; True where it lives, or
        cannot be seen: on another host, or in another container.
    """
    who = _parsed(owner)
    if who is None:
        return False
    if not _is_here(who):
        return True
    if who.get("boot", _space()["boot"]) != _space()["boot"]:
        return False
    try:
        process = psutil.Process(who["pid"])
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return abs(process.create_time() - who["start"]) < START_TOLERANCE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _is_here(who: Mapping[str, Any]) -> bool:
    return who["host"] == socket.gethostname() and who.get("space", "") == _space()["space"]


def _parsed(owner: object) -> dict[str, Any] | None:
    """Return the holder of a lease as it was stored, None for nobody and for what is none."""
    try:
        who = json.loads(owner) if isinstance(owner, str) else None
    except ValueError:
        return None
    kinds = {"host": str, "pid": int, "start": int | float}
    if not isinstance(who, dict) or not all(isinstance(who.get(name), kind) for name, kind in kinds.items()):
        return None
    return who if 0 < who["pid"] < _MOST_PIDS else None
