"""What the store knows of a cell, and the right to write one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bench.core.errors import LockedError


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What the store knows of a cell; `error` is the cause of a failure, `info` its counts and hashes."""

    id: str
    kind: str
    status: str
    seconds: float | None
    error: str | None
    info: dict[str, Any]
    spec: dict[str, Any]


def cell_record(
    cell: str, kind: str, status: str, seconds: float | None, error: str | None, info: str, spec: str
) -> CellRecord:
    """Return a row of the table `cells`."""
    return CellRecord(cell, kind, status, seconds, error, json.loads(info), json.loads(spec))


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one cell, until somebody else's generation is higher."""

    cell: str
    generation: int


class LeaseLost(LockedError):
    """Another worker has taken the cell over; what this one computed is dropped."""
