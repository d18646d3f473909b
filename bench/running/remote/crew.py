"""Go through a plan with several jobs under way at once: what the engines for clusters share.

The driver is one process, the only one that writes the store. Each job is followed by a thread with a connection of its
own, which claims the cell, sends orders and stores what comes back.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final

from bench.running.attempt import Attempt, attempt
from bench.running.cell_index import CellIndex
from bench.running.cells import Cell
from bench.running.context import Outcome, RunContext
from bench.running.engines.local import POLL_SECONDS, JobByJob
from bench.running.progress.display import Silent
from bench.running.progress.events import Event, Said
from bench.running.progress.reporter import Reporter
from bench.running.progress.view import Overall
from bench.running.remote.elsewhere import ANSWER_SECONDS, Elsewhere
from bench.running.remote.here import Here
from bench.running.remote.included import included_files
from bench.running.remote.orders import OrderBook
from bench.running.remote.transport import Transport
from bench.running.schedule import Job
from bench.store.store import Store

MOST_JOBS: Final = 64  # under way at once; each one has a thread of the driver


def run_elsewhere(context: RunContext, transport: Transport, jobs: int, patience: float = ANSWER_SECONDS) -> Outcome:
    """Compute every cell of the plan that is not stored by a transport.

    Args:
        context: plan, store, reporter and stop request.
        transport: carries the orders; closed at the end.
        jobs: under way at once.
        patience: seconds without any reply after which the cluster counts as gone.

    Returns:
        What was computed, and what failed.

    Raises:
        Stopped: the run was asked to stop.
        LockedError: the option `no_wait`, and another process holds a cell.
        MachineError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    context.stop.ends_chunks = (
        False  # the driver leaves at once: an order under way may take minutes, or wait in a queue
    )
    with contextlib.ExitStack() as held:
        computers = held.enter_context(computers_of(context, transport, patience))
        pool = held.enter_context(ThreadPoolExecutor(max(1, min(jobs, MOST_JOBS)), "bench job"))
        held.callback(transport.close)  # before the pool waits for its threads
        return Crew(context, computers).run_with(pool, max(1, min(jobs, MOST_JOBS)))


def computers_of(context: RunContext, transport: Transport, patience: float = ANSWER_SECONDS) -> Elsewhere:
    """Return what has the tasks of a run computed by a transport.

    Args:
        context: plan, store, reporter and stop request.
        transport: carries the orders.
        patience: seconds without any reply after which the cluster counts as gone.
    """
    silent = context.options.hang_limit
    book = OrderBook(transport.put, included_files(context.plan, transport.put), silent)
    return Elsewhere(transport, book, Here(context.plan.out, silent, context.reporter.log), patience)


class Crew(JobByJob):
    """The state of a run with several jobs under way."""

    def run_with(self, pool: ThreadPoolExecutor, width: int) -> Outcome:
        """Go through the jobs until each one is settled.

        Args:
            pool: the threads that follow jobs.
            width: how many of them there are.

        Returns:
            What was computed, and what failed.
        """
        ready, later = deque(self._index.schedule.jobs), dict[int, list[Job]]()
        running: dict[Future[Attempt], Job] = {}
        while ready or running or later:
            self._held = []
            while ready and len(running) < width:
                job = ready.popleft()
                step = self.step(job)
                if isinstance(step, Cell):
                    running[pool.submit(self._follow, job, step)] = job
                elif step:
                    ready.extend(later.pop(job.place, ()))
                else:
                    later.setdefault(job.place, []).append(job)
            settled = self._take(running, later)
            ready.extend(job for place in settled for job in later.pop(place, ()))
            if not running and not ready and later:
                self._pause(bool(settled))
                ready.extend(job for jobs in later.values() for job in jobs)
                later.clear()
        return self.outcome()

    def _take(self, running: dict[Future[Attempt], Job], later: dict[int, list[Job]]) -> list[int]:
        """Wait for a job to end for a moment.

        Returns:
            The places of the runs of those that did.

        Raises:
            Stopped: the run was asked to stop.
        """
        places = list[int]()
        for future in wait(running, POLL_SECONDS, FIRST_COMPLETED).done if running else ():
            job = running.pop(future)
            if self.ended(job, future.result()):
                places.append(job.place)
            else:
                later.setdefault(job.place, []).append(job)
        self._context.raise_if_stopped()
        return places

    def _pause(self, moved: bool) -> None:
        """Wait for cells that another process holds, unless something has just been settled.

        Raises:
            LockedError: the option `no_wait`.
        """
        if self._held and not moved:
            if self._context.options.no_wait:
                raise self.locked()
            time.sleep(POLL_SECONDS)

    def _follow(self, job: Job, cell: Cell) -> Attempt:
        """Claim a cell, have it computed and store it, with a store, an index and a reporter of this thread's own."""
        reporter = Reporter(Forward(self._context.reporter))
        with Store.open(self._context.plan.out) as store:
            context = replace(self._context, store=store, reporter=reporter)
            return attempt(job, cell, context, CellIndex(self._index.schedule, store), self._computers)


class Forward(Silent):
    """Passes the events of one job on to the reporter of the command.

    Args:
        target: the reporter.
    """

    def __init__(self, target: Reporter) -> None:
        self._target = target

    def show(self, event: Event, overall: Overall) -> None:
        """Pass an event on."""
        if isinstance(event, Said):
            self._target.log(event.text)
        else:
            self._target.take(event)
