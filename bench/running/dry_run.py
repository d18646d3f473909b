"""What a run would do: which cells are stored, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.running.cell_index import CellIndex
from bench.running.cells import Cell
from bench.running.companions import with_companions
from bench.running.plan import Plan
from bench.running.prepare import Options, prepare
from bench.running.schedule import Job, Schedule
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
    index, earlier = CellIndex(schedule, store, still=True), store.last_by_name()
    return [_state(job, index, earlier.get(job.name), store) for job in schedule.jobs]


def _state(job: Job, index: CellIndex, last: str | None, store: Store) -> CellState:
    before = store.status_of(last) if last else None
    seconds = before.seconds if before else None
    if waits := _waits_for(job, index):
        return CellState(job.title, False, waits, seconds)
    if index.is_done(job):
        whole = index.is_whole(job)
        return CellState(job.title, whole, "" if whole else "its weights are missing", seconds)
    if missing := index.left_out(job):
        return CellState(job.title, False, f"{missing} were left out when the results were packed", seconds)
    cell = index.cell(job)
    reasons = _reasons(cell, store.cell(last) if last else None) if cell else ()
    return CellState(job.title, False, "; ".join(reasons), seconds)


def _waits_for(job: Job, index: CellIndex) -> str:
    """Return what a job waits for, in words: its training, else what it reads; "" if it waits for nothing."""
    own = [needed for needed in index.schedule.own_inputs(job) if not index.is_done(needed)]
    if any(needed.evaluation is None for needed in own):
        return "its model is not trained yet"
    if own:
        return f"waits for {', '.join(sorted(needed.key for needed in own))}"
    left = {key: index.others_left(job, key) for key in index.schedule.columns_read(job)}
    names = sorted(key for key, count in left.items() if count)
    return f"waits for {', '.join(names)} of {sum(left.values())} other models" if names else ""


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
