"""What happens in a store, cheap enough to be asked every second: the states of its cells, without their contents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from bench.store.database import Database

_CELLS: Final = "SELECT id, status, seconds, error, heartbeat FROM cells"
_PARTS: Final = (
    "SELECT cells.id AS cell, (SELECT COUNT(*) FROM chunks WHERE chunks.cell = cells.id) "
    "+ (SELECT COUNT(*) FROM epochs WHERE epochs.cell = cells.id) AS parts FROM cells WHERE status = 'running'"
)


@dataclass(frozen=True, slots=True)
class Activity:
    """The state of a cell, as the store has it now.

    Attributes:
        cell: its id.
        name: of its job, as it was claimed.
        status: "pending", "running", "done" or "failed".
        seconds: that it took; None: not done.
        error: the cause of a failure.
        heartbeat: of its last holder, in seconds since the epoch.
        parts: epochs or chunks that are stored of a cell that is running.
    """

    cell: str
    name: str
    status: str
    seconds: float | None
    error: str
    heartbeat: float
    parts: int = 0


class Watcher:
    """Looks at the cells of a store again and again, from a thread of its own: it needs its own connection.

    Args:
        database: an open database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._names: dict[str, str] = {}

    def look(self) -> list[Activity]:
        """Return the state of every cell.

        Raises:
            MachineError, StoreError: the store cannot be read now.
        """
        rows = self._database.query(_CELLS)
        parts = {row["cell"]: int(row["parts"]) for row in self._database.query(_PARTS)}
        return [
            Activity(
                cell=row["id"],
                name=self._name(row["id"]),
                status=str(row["status"]),
                seconds=row["seconds"] if isinstance(row["seconds"], float) else None,
                error=str(row["error"] or ""),
                heartbeat=float(row["heartbeat"] or 0.0),
                parts=parts.get(row["id"], 0),
            )
            for row in rows
        ]

    def _name(self, cell: str) -> str:
        """Return the name of a cell's job, which never changes; "" for a record that names none."""
        if cell not in self._names:
            rows = self._database.query("SELECT spec FROM cells WHERE id=:id", {"id": cell})
            try:
                name = json.loads(rows[0]["spec"]).get("name")
            except (ValueError, TypeError, IndexError, AttributeError):
                name = None
            self._names[cell] = name if isinstance(name, str) else ""
        return self._names[cell]
