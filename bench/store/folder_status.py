"""What has come of a folder's last plan, cell by cell: done, running and by whom, left, failed and why. No torch."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bench.store.board_plan import Aside
from bench.store.database import Database
from bench.store.garbage import folder_size
from bench.store.health import lacks_weights
from bench.store.leases import Leases
from bench.store.plans import Plans
from bench.store.records import CellRecord, cell_record, parsed_object
from bench.store.status import TRAINING

State = Literal["done", "running", "failed", "left"]


@dataclass(frozen=True)
class CellStatus:
    """One cell of the plan.

    Attributes:
        model: the run, e.g. "lcnn seed 0".
        cell: "train", or the evaluation's key.
        state: "left" is what nobody computes now: never begun, or interrupted.
        by: who computes it, "host, process n"; "" if nobody does.
        cause: of a failure, or why something that was done is left again.
        seconds: what it took; None: not done.
        images: images that are stored of an evaluation.
        of: images that it has.
    """

    model: str
    cell: str
    state: State
    by: str = ""
    cause: str = ""
    seconds: float | None = None
    images: int = 0
    of: int = 0


@dataclass(frozen=True)
class FolderStatus:
    """How far the last plan of a folder has come.

    Attributes:
        suite: the suite's name.
        data: the name of the data.
        command: that planned it, as typed.
        created: when, ISO 8601, UTC.
        cells: all of its cells: run by run, the training first.
        size: bytes by what they are.
        earlier: rows of earlier commands that stand on the board as well.
        aside: rows of earlier commands that do not, with the reasons.
    """

    suite: str
    data: str
    command: str
    created: str
    cells: tuple[CellStatus, ...]
    size: dict[str, int]
    earlier: tuple[str, ...] = ()
    aside: tuple[Aside, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many cells there are, and how many of each state."""
        found = Counter(cell.state for cell in self.cells)
        return {"cells": len(self.cells), **{state: found[state] for state in ("done", "running", "left", "failed")}}

    def as_data(self) -> dict[str, object]:
        """Return it as plain data, with the counts."""
        return {**asdict(self), "counts": self.counts}


def folder_status(out: Path) -> FolderStatus:
    """Read how far the last plan of a result folder has come.

    Args:
        out: the result folder.

    Returns:
        Its cells with their states.

    Raises:
        MachineError: there is no store.
        StoreError: nothing has been planned there, or the store is damaged.
        IntegrityError: a record is damaged; it is named.
    """
    with contextlib.closing(Database.open(out, create=False)) as database:
        plan, leases, board = Plans(database).latest(), Leases(database), Plans(database).board()
        cells: list[CellStatus] = []
        for run in plan.rows:
            cells.append(_status(database, leases, run.label, TRAINING, run.train_cell, 0))
            for key, planned in plan.evaluations.items():
                if key not in run.unsuited:
                    cells.append(_status(database, leases, run.label, key, run.evaluations.get(key), planned.n))
    return FolderStatus(
        suite=plan.suite.name,
        data=plan.data.name,
        command=plan.command,
        created=plan.created,
        cells=tuple(cells),
        size=folder_size(out),
        earlier=board.earlier,
        aside=board.aside,
    )


def _status(database: Database, leases: Leases, model: str, key: str, cell: str | None, images: int) -> CellStatus:
    rows = database.rows("cells", "id=:id", {"id": cell}) if cell else []
    if not rows:
        return CellStatus(model, key, "left", of=images)
    record = cell_record(rows[0], database.described("cells", rows[0]))
    holder = leases.holder(record.id) or ""
    if key == TRAINING and lacks_weights(database.out, record):
        return CellStatus(model, key, "left", cause="its weights are missing; the next run makes them anew")
    return CellStatus(
        model=model,
        cell=key,
        state=_state(record, holder),
        by=holder,
        cause=record.error or "" if record.status == "failed" else "",
        seconds=record.seconds if record.status == "done" else None,
        images=_images(database, record.id),
        of=images,
    )


def _state(record: CellRecord, holder: str) -> State:
    if record.status == "done" or record.status == "failed":
        return "done" if record.status == "done" else "failed"
    return "running" if holder else "left"


def _images(database: Database, cell: str) -> int:
    rows = database.rows("chunks", "cell=:cell", {"cell": cell})
    counts = (parsed_object(row["info"], database.described("chunks", row)).get("images") for row in rows)
    return sum(n for n in counts if isinstance(n, int))
