"""Follow a run: its own cells, its workers' and those that other processes compute, from begin to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from bench.running.context import RunContext
from bench.running.dry_run import CellState
from bench.running.progress import costs
from bench.running.progress.ending import Ending, expected
from bench.running.progress.events import Began, from_line
from bench.running.progress.watch import watched
from bench.running.schedule import Job, Schedule


@contextlib.contextmanager
def followed(context: RunContext, states: Sequence[CellState], processes: int) -> Iterator[Callable[[str], None]]:
    """Tell the reporter of a run inside the block what happens to its cells, in whichever process.

    Args:
        context: the run's surroundings.
        states: of its cells, as it begins.
        processes: how many compute.

    Yields:
        What takes a line that a worker prints.
    """
    plan, reporter = context.plan, context.reporter
    left = {state.name for state in states if not state.cached}
    jobs = {job.name: (job.title, parts(job)) for job in Schedule(plan).jobs if job.title in left}
    sizes = {title: size for title, size in costs.sizes(plan, plan.out).items() if title in left}
    began = Began(
        suite=plan.suite.name,
        data=plan.dataset.name,
        device=str(plan.device),
        out=str(plan.out),
        cells=len(states),
        cached=len(states) - len(left),
        processes=processes,
    )

    def hear(line: str) -> None:
        event = from_line(line)
        if event is not None:
            reporter.take(event)

    reporter.begin(began, sizes, Ending(expected(plan)))
    with watched(plan.out, jobs, reporter, context.started):
        yield hear


def parts(job: Job) -> int:
    """Return of how many epochs or chunks a job's cell is made."""
    if job.evaluation is not None:
        return -(-len(job.evaluation.split) // job.evaluation.evaluation.chunk)
    return 1 if job.run.handed_over else job.run.job.recipe.epochs
