"""What the store knows of a cell, and the right to write one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.core.errors import IntegrityError, LockedError

Info = dict[str, Any]  # counts, seconds, hashes: plain data, whatever the writer puts there
# In a train cell's info: its weights are not here; in a chunk's info: so many of its images are not.
LEFT_OUT: Final = "left_out"
RESTORE: Final = "The store was changed outside bench: restore it, or run python -m bench store repair."
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


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How far a cell is, without what it was made of: a CellRecord that costs a tenth.

    Attributes:
        id: of the cell.
        status: one of `STATES`.
        seconds: that it took by the clock; None: not done.
        error: the cause of a failure.
        info: its counts and hashes.
    """

    id: str
    status: str
    seconds: float | None
    error: str | None
    info: Info

    @property
    def weights(self) -> str:
        """The SHA-256 of the weights of a training that is done; "" where there is none."""
        return str(self.info.get("weights", ""))

    @property
    def left_out(self) -> bool:
        """Whether what it produced outside the store was left out when the folder was packed."""
        return bool(self.info.get(LEFT_OUT))


STATES: Final = ("pending", "running", "done", "failed")


def cell_record(row: sqlite3.Row, where: str) -> CellRecord:
    """Return a row of the table `cells`.

    Args:
        row: its fields.
        where: what an error message begins with.

    Raises:
        IntegrityError: a field is not what it must be.
    """
    state = cell_status(row, where)
    return CellRecord(
        id=state.id,
        kind=row["kind"],
        status=state.status,
        seconds=state.seconds,
        error=state.error,
        info=state.info,
        spec=parsed_object(row["spec"], where),
    )


def cell_status(row: sqlite3.Row, where: str) -> CellStatus:
    """Return how far the cell of a row of the table `cells` is.

    Args:
        row: its fields.
        where: what an error message begins with.

    Raises:
        IntegrityError: a field is not what it must be.
    """
    if row["status"] not in STATES:
        raise IntegrityError(f"{where}: expected {', '.join(STATES)}, got {str(row['status'])[:40]!r}. {RESTORE}")
    values = {name: row[name] for name in ("id", "status", "seconds", "error")}
    return CellStatus(**values, info=parsed_object(row["info"], where))


def parsed_object(text: object, where: str) -> Info:
    """Return the JSON object of a stored text.

    Args:
        text: as the store keeps it.
        where: what an error message begins with.

    Raises:
        IntegrityError: it is none.
    """
    try:
        content = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise IntegrityError(f"{where}: expected an object in JSON, got {str(text)[:40]!r}. {RESTORE}")
    return content


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one cell, until somebody else's generation is higher.

    Attributes:
        cell: id of the cell.
        generation: how often it has been claimed.
        abandoned: whether its last holder died over it.
    """

    cell: str
    generation: int
    abandoned: bool = False


class LeaseLost(LockedError):
    """Another worker has taken the cell over; what this one computed is dropped."""
