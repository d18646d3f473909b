"""What makes of a store of one format one of the next."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Final

from bench.store.plan_digest import plan_digest
from bench.store.seals import SEALED, seal


class NoWayError(Exception):
    """A store of an old format holds what no later format can say."""


def version_plans(db: sqlite3.Connection) -> None:
    """Format 1 to 2: the same tables; plans say their format, and a suite's `primary_eps` is its threat's radius.

    Until shortly before format 2, plans did not say what their columns mean: which one is robust accuracy under which
    attack. No board can be made of these.

    Raises:
        NoWayError: a plan does not say it, or is none.
    """
    for row in db.execute("SELECT id, plan FROM plans").fetchall():
        try:
            plan = json.loads(row["plan"])
            plan["suite"].pop("primary_eps", None)
            columns = [column for one in plan["evaluations"].values() for column in one["columns"].values()]
            if any("role" not in column for column in columns):
                raise NoWayError
            text = json.dumps(plan | {"format": 2}, separators=(",", ":"), allow_nan=False)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise NoWayError from error
        db.execute("UPDATE plans SET plan=:plan WHERE id=:id", {"plan": text, "id": row["id"]})


def seal_records(db: sqlite3.Connection) -> None:
    """Format 2 to 3: every record gets a seal; plans get a digest, and the order in which they were last used.

    Raises:
        NoWayError: they have one: the file says another format than it has.
    """
    if any(row["name"] == "seal" for row in db.execute("PRAGMA table_info(plans)")):
        raise NoWayError
    for table in SEALED:
        db.execute(f"ALTER TABLE {table} ADD COLUMN seal TEXT")
    db.execute("ALTER TABLE plans ADD COLUMN digest TEXT")
    db.execute("ALTER TABLE plans ADD COLUMN used INTEGER NOT NULL DEFAULT 0")
    for row in db.execute("SELECT id, plan FROM plans").fetchall():
        values = {"digest": plan_digest(row["plan"]), "id": row["id"]}
        db.execute("UPDATE plans SET used=id, digest=:digest WHERE id=:id", values)
    for table in SEALED:
        seal(db, table, "true", {})


UPGRADES: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {1: version_plans, 2: seal_records}
