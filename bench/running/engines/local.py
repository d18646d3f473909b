"""The local engine: one job after the other, by a worker in this process. Several processes may work on one folder."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.core.errors import LockedError
from bench.running.attempt import Attempt, attempt
from bench.running.cell_index import CellIndex
from bench.running.cells import Cell
from bench.running.context import Outcome, RunContext
from bench.running.remote.here import Here
from bench.running.schedule import Job, Schedule
from bench.running.tasks import Computes
from bench.store.leases import STALE_SECONDS
from bench.store.weights import require_weights

HELPERS = True  # further processes of the same command share its cells
POLL_SECONDS = 0.5  # between two looks at cells that other processes compute


def run(context: RunContext) -> Outcome:
    """Compute every cell of the plan that is not stored, waiting for those that others compute.

    Args:
        context: plan, store, reporter and stop request.

    Returns:
        What was computed, and what failed.

    Raises:
        Stopped: the run was asked to stop.
        LockedError: the option `no_wait`, and another process holds a cell.
        MachineError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    with Here(context.plan.out, context.options.hang_limit, context.reporter.log) as computers:
        return JobByJob(context, computers).run()


class JobByJob:
    """The state of one run: which jobs are settled, and what became of them."""

    def __init__(self, context: RunContext, computers: Computes) -> None:
        self._context, self._computers = context, computers
        self._index = CellIndex(Schedule(context.plan), context.store)
        self._settled: set[tuple[int, str]] = set()
        self._bound: dict[tuple[int, str], str] = {}
        self._held: list[Job] = []
        self._computed = 0
        self._failures: dict[str, str] = {}

    def run(self) -> Outcome:
        """Go through the jobs until each one is settled.

        Returns:
            What was computed, and what failed.
        """
        waiting: Sequence[Job] = self._index.schedule.jobs
        while waiting:
            self._held = []
            left = [job for job in waiting if not self._settle(job)]
            if left and len(left) == len(waiting):
                if self._context.options.no_wait:
                    raise self.locked()
                time.sleep(POLL_SECONDS)
            waiting = left
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what was computed so far, and what failed."""
        return Outcome(self._computed, self._failures)

    def _settle(self, job: Job) -> bool:
        """Compute a job if it can be; True if nothing more is to be done about it."""
        step = self.step(job)
        if isinstance(step, bool):
            return step
        return self.ended(job, attempt(job, step, self._context, self._index, self._computers))

    def step(self, job: Job) -> Cell | bool:
        """Return the cell of a job that is to be computed now; else whether nothing more is to be done about the job.

        Raises:
            Stopped: the run was asked to stop.
        """
        self._context.raise_if_stopped()
        if any(needed.id not in self._settled for needed in self._index.schedule.inputs(job)):
            return False
        cell = self._index.cell(job)
        if cell is None:  # what it needs has failed
            return self._is_settled(job)
        self._bind(job, cell)
        if self._is_stored(job) or self._is_left_out(job):
            return self._is_settled(job)
        return cell

    def _bind(self, job: Job, cell: Cell) -> None:
        """Record which cell an evaluation is, and with it the others of its run that are known by now."""
        if job.evaluation is None or self._context.role != "owner" or self._bound.get(job.id) == cell.id:
            return
        row = self._index.schedule.own_evaluations(job)
        found = {job.id: cell.id} | {other.id: known for other in row if (known := self._index.cell_id(other))}
        new = {place: known for place, known in found.items() if self._bound.get(place) != known}
        self._context.store.plans.bind_all((self._context.number, *place, known) for place, known in new.items())
        self._bound |= new

    def ended(self, job: Job, done: Attempt) -> bool:
        """Note how an attempt on a job ended; True if nothing more is to be done about it."""
        if done.state == "held":
            self._held.append(job)
            return False
        self._computed += done.state == "computed"
        if done.state == "failed":
            self._failures[job.name] = done.cause
        return self._is_settled(job)

    def _is_settled(self, job: Job) -> bool:
        self._settled.add(job.id)
        return True

    def _is_stored(self, job: Job) -> bool:
        """Tell whether a job's result is there; weights that are gone and needed are trained anew.

        Returns:
            False where the job has to be computed.

        Raises:
            IntegrityError: the weights are not the ones that were stored.
        """
        state, store = self._index.state(job), self._context.store
        if state is None or state.status != "done":
            return False
        if self._index.is_whole(job):
            if not job.evaluation and self._context.role == "owner":
                require_weights(store.out, state.weights)
            return True
        store.leases.reopen(state.id)
        self._index.reopened(job)
        self._context.reporter.log(f"  {job.name}: its weights are missing, training anew")
        return False

    def _is_left_out(self, job: Job) -> bool:
        """Tell whether a job cannot be computed here, because the folder was packed without what it reads."""
        missing = self._index.left_out(job) if job.evaluation and job.evaluation.reads_others else ""
        if missing:
            self._context.reporter.log(f"  {job.name}: not done, {missing} were left out when the results were packed")
        return bool(missing)

    def locked(self) -> LockedError:
        """Return what to raise where another process holds the cells that are left."""
        leases = self._context.store.leases
        cells = [cell.id for job in self._held if (cell := self._index.cell(job))]
        holders = {holder: cell for cell in cells if (holder := leases.holder(cell))}
        what = "Wait for it, or run without --no-wait."
        if holders and not any(leases.sees_holder(cell) for cell in holders.values()):
            what = (
                "Its process cannot be seen from here: without --no-wait its cells are taken over once it has given no "
                f"sign of life for {STALE_SECONDS:g} s."
            )
        return LockedError(
            f"{self._context.plan.out}: expected free cells, got cells that another run works on "
            f"({next(iter(holders), 'one of its evaluations')}). {what}"
        )
