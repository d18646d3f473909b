"""What a run would do: which cells are stored, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.running.cells import Cell
from bench.running.companions import with_companions
from bench.running.plan import Plan
from bench.running.prepare import Options, prepare
from bench.running.schedule import CellIndex, Job, Schedule
from bench.running.stopping import StopRequest
from bench.running.trial import try_models
from bench.store.database import NAME
from bench.store.records import CellRecord
from bench.store.spec_difference import difference
from bench.store.store import Store

_UNFINISHED = {"running": "in progress", "pending": "unfinished"}


@dataclass(frozen=True)
class CellState:
    """One line of a dry run.

    Attributes:
        name: of the job.
        cached: whether its result is stored.
        why: why it is not.
        seconds: how long a cell of that name took last time; None: never run.
    """

    name: str
    cached: bool
    why: str = ""
    seconds: float | None = None


def cell_states(plan: Plan, store: Store | None) -> list[CellState]:
    """Return for every cell of a plan whether its result is stored.

    Args:
        plan: the plan.
        store: None where there is none yet.
    """
    schedule = Schedule(plan)
    if store is None:
        return [CellState(job.title, False, "nothing is stored yet") for job in schedule.jobs]
    index, earlier = CellIndex(schedule, store), _by_name(store)
    return [_state(job, index, earlier) for job in schedule.jobs]


def _by_name(store: Store) -> dict[str, CellRecord]:
    """Return the last stored cell of each name."""
    return {str(cell.spec.get("name")): cell for kind in ("train", "evaluation") for cell in store.cells(kind)}


def _state(job: Job, index: CellIndex, earlier: dict[str, CellRecord]) -> CellState:
    last, cell = earlier.get(job.name), index.cell(job)
    seconds = last.seconds if last else None
    waits = [needed for needed in index.schedule.inputs(job) if not index.is_done(needed)]
    if index.is_done(job) and not waits:
        whole = index.is_whole(job)
        return CellState(job.title, whole, "" if whole else "its weights are missing", seconds)
    if waits or cell is None:
        return CellState(job.title, False, _waits_for(job, waits), seconds)
    if missing := index.left_out(job):
        return CellState(job.title, False, f"{missing} were left out when the results were packed", seconds)
    return CellState(job.title, False, "; ".join(_reasons(cell, last)), seconds)


def _waits_for(job: Job, waits: list[Job]) -> str:
    """Return what a job waits for, in words: its training, else what it reads."""
    if any(needed.evaluation is None for needed in waits):
        return "its model is not trained yet"
    own = [needed for needed in waits if needed.place == job.place]
    names = sorted({needed.key for needed in own or waits})
    return f"waits for {', '.join(names)}" + ("" if own else f" of {len(waits)} other models")


def _reasons(cell: Cell, last: CellRecord | None) -> Iterator[str]:
    """Yield why a stored cell of the same name does not serve."""
    if last is None:
        yield "never run"
        return
    changes = difference({k: v for k, v in last.spec.items() if k != "name"}, dict(cell.spec))
    yield from changes
    if not changes:
        yield f"failed: {last.error}" if last.status == "failed" else _UNFINISHED.get(last.status, last.status)


def dry_run(options: Options) -> tuple[Plan, list[CellState]]:
    """Plan without doing anything; a store is read if there is one, none is made.

    Args:
        options: of the command.

    Returns:
        The plan, and the state of each of its cells.

    Raises:
        BenchError: as of a run, before it computes anything.
    """
    plan = prepare(options)
    try_models(plan, options, StopRequest())
    if not (plan.out / NAME).is_file():
        return plan, cell_states(plan, None)
    with Store.open(plan.out) as store:
        plan = with_companions(plan, store)
        return plan, cell_states(plan, store)
