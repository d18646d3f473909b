"""Leases: the right to write one cell, which ends when its holder dies. Only one process computes a cell at a time."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import psutil

from bench.store import serialise
from bench.store.database import Database
from bench.store.records import Lease, LeaseLost
from bench.store.sqlite import insert

STALE_SECONDS = 120.0  # a holder on another host counts as dead after this long without a heartbeat
START_TOLERANCE = 2.0  # seconds; the system's clock may be corrected while a process lives


class Leases:
    """The leases of a store's cells."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, cell: str, kind: str, spec: Mapping[str, Any]) -> Lease | None:
        """Take the right to write a cell.

        Args:
            cell: id of the cell.
            kind: "train" or "evaluation".
            spec: everything that its id was made of.

        Returns:
            The lease, or None.
        """
        with self._database.transaction() as db:
            sql = "SELECT status, generation, owner, heartbeat FROM cells WHERE id=:id"
            row = db.execute(sql, {"id": cell}).fetchone()
            if row is None:
                text = serialise.dump_json(dict(spec))
                insert(db, "cells", {"id": cell, "kind": kind, "spec": text, "status": "pending"})
            elif row["status"] == "done" or (row["status"] == "running" and is_alive(row["owner"], row["heartbeat"])):
                return None
            generation = 1 if row is None else row["generation"] + 1
            db.execute(
                "UPDATE cells SET status='running', error=NULL, generation=:generation, owner=:owner, "
                "heartbeat=:heartbeat WHERE id=:id",
                {
                    "generation": generation,
                    "owner": serialise.dump_json(process_id()),
                    "heartbeat": time.time(),
                    "id": cell,
                },
            )
            return Lease(cell, generation)

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

    def reopen(self, cell: str) -> None:
        """Mark a finished cell as unfinished: what it produced outside the store is gone."""
        with self._database.transaction() as db:
            db.execute("UPDATE cells SET status='pending' WHERE id=:id AND status='done'", {"id": cell})

    def holder(self, cell: str) -> str | None:
        """Return who computes a cell now ("host, process n"), None if nobody does."""
        rows = self._database.query("SELECT status, owner, heartbeat FROM cells WHERE id=:id", {"id": cell})
        if not rows or rows[0]["status"] != "running" or not is_alive(rows[0]["owner"], rows[0]["heartbeat"]):
            return None
        owner = json.loads(rows[0]["owner"])
        return f"{owner['host']}, process {owner['pid']}"


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
    """Refresh the heartbeat of a lease inside a transaction."""
    db.execute("UPDATE cells SET heartbeat=:now WHERE id=:id", {"now": time.time(), "id": lease.cell})


def process_id() -> dict[str, str | int | float]:
    """Return which process this is: host, pid, and when it started (pids are reused)."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": psutil.Process(pid).create_time()}


def is_alive(owner: str | None, heartbeat: float | None) -> bool:
    """Tell whether the holder of a lease lives: on this host by its process, elsewhere by its heartbeat.

    A zombie is dead: a killed process keeps its pid until its parent has asked for it, which may be never.

    Args:
        owner: `process_id` of the holder as JSON; None: nobody.
        heartbeat: when it was last heard of, in seconds since the epoch.

    Returns:
        False for nobody.
    """
    if not owner:
        return False
    who = json.loads(owner)
    if who["host"] != socket.gethostname():
        return time.time() - (heartbeat or 0.0) < STALE_SECONDS
    try:
        process = psutil.Process(who["pid"])
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        return abs(process.create_time() - float(who["start"])) < START_TOLERANCE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
