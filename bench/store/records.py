"""What the store knows of a cell, and the right to write one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.core.errors import LockedError

Info = dict[str, Any]  # counts, seconds, hashes: plain data, whatever the writer puts there
# In a train cell's info: its weights are not here; in a chunk's info: so many of its images are not.
LEFT_OUT: Final = "left_out"
IMAGES_SHOWN: Final = 6  # of the nearest and of the farthest broken images that the page shows, per defense


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What the store knows of a cell; `error` is the cause of a failure, `info` its counts and hashes."""

    id: str
    kind: str
    status: str
    seconds: float | None
    error: str | None
    info: Info
    spec: Mapping[str, Any]

    @property
    def left_out(self) -> bool:
        """Whether what it produced outside the store was left out when the folder was packed."""
        return bool(self.info.get(LEFT_OUT))


def cell_record(row: sqlite3.Row) -> CellRecord:
    """Return a row of the table `cells`."""
    values = {name: row[name] for name in ("id", "kind", "status", "seconds", "error")}
    return CellRecord(**values, info=json.loads(row["info"]), spec=json.loads(row["spec"]))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one cell, until somebody else's generation is higher."""

    cell: str
    generation: int


class LeaseLost(LockedError):
    """Another worker has taken the cell over; what this one computed is dropped."""
