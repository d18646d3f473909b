"""What makes of a store of one format one of the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

from bench.store.plan_digest import plan_digest
from bench.store.seals import SEALED, seal


def seal_records(db: sqlite3.Connection) -> None:
    """Format 2 to 3: every record gets a seal; plans get a digest, and the order in which they were last used."""
    for table in SEALED:
        db.execute(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
    db.execute("ALTER TABLE plans ADD COLUMN digest TEXT")
    db.execute("ALTER TABLE plans ADD COLUMN used INTEGER NOT NULL DEFAULT 0")
    for row in db.execute("SELECT id, plan FROM plans").fetchall():
        values = {"digest": plan_digest(row["plan"]), "id": row["id"]}
        db.execute("UPDATE plans SET used=id, digest=:digest WHERE id=:id", values)
    for table in SEALED:
        seal(db, table, "true", {})


UPGRADES: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {2: seal_records}
