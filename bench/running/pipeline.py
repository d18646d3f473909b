"""The main path on one screen: suite → plan → cells → report."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.core.errors import Stopped
from bench.reports import write as write_reports
from bench.reports.board.model import Board
from bench.running import computers, engines, machine, torchrun, workers
from bench.running.cell_index import CellIndex
from bench.running.companions import with_companions
from bench.running.context import RunContext
from bench.running.describe import plan_record
from bench.running.dry_run import cell_states
from bench.running.plan import Plan
from bench.running.prepare import Options, prepare
from bench.running.progress import follow
from bench.running.progress.display import Events, display_for
from bench.running.progress.events import Ended
from bench.running.progress.reporter import Reporter
from bench.running.schedule import Schedule
from bench.running.stopping import StopRequest
from bench.running.trial import try_models
from bench.store.store import Store


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        code: the exit code.
        failures: cell to the cause of its failure.
        out: the result folder.
        board: as it was written; None where Ctrl-C was pressed again before it was.
        stored: cells of the plan that are stored.
        cells: how many the plan has.
    """

    code: int
    failures: dict[str, str]
    out: Path
    board: Board | None
    stored: int
    cells: int


def run(options: Options) -> Result:
    """Train what is missing, evaluate what is missing, report. Running it again recomputes nothing.

    Args:
        options: of the command.

    Returns:
        The exit code, the failures, and the board.

    Raises:
        BenchError: nothing could be done, or nothing more; its class says which exit code.
    """
    engine = engines.load(options.engine)
    stop, begun = StopRequest(options.time_limit), time.time()  # the clock runs while data are read
    plan = prepare(options)
    reporter = Reporter(display_for(options.quiet, options.events))
    stop.within = lambda: reporter.stop_note
    reporter.log(f"suite {plan.suite.name} on {plan.dataset.name} ({plan.dataset.layout}), {plan.device}")
    if plan.dataset.note:
        reporter.log(plan.dataset.note)
    try:
        with stop.signals(), _signalled(stop):
            try_models(plan, options, stop)
    except Stopped:
        result = Result(stop.code or 130, {}, plan.out, None, 0, len(Schedule(plan).jobs))
        reporter.end(_ended(result, time.time() - begun))
        return result
    with contextlib.closing(reporter):
        result = _run(plan, options, engine, stop, reporter, begun)
    reporter.end(_ended(result, time.time() - begun))
    return result


@contextlib.contextmanager
def _signalled(stop: StopRequest) -> Iterator[None]:
    """Take the end of the server of child processes for a stop, if a signal to all processes has ended it.

    Raises:
        Stopped: there was a signal.
        EOFError: there was none.
    """
    try:
        yield
    except EOFError as error:
        if stop.code is None:
            raise
        raise Stopped("stopped while a model was tried.") from error


def _run(
    plan: Plan, options: Options, engine: ModuleType, stop: StopRequest, reporter: Reporter, begun: float
) -> Result:
    """Compute the cells that are not stored, and write the board."""
    with Store.open(plan.out, create=True) as store, stop.signals():
        for damage in store.drop_damaged():
            reporter.log(f"{damage}; dropped, and computed again where it is needed")
        plan = with_companions(plan, store)
        number = store.plans.put(plan_record(plan))
        bound = CellIndex(Schedule(plan), store, still=True).bindings()
        store.plans.bind_all((number, place, key, cell) for (place, key), cell in bound.items())
        context = RunContext(plan, store, reporter, stop, options, "owner", number, begun)
        states = cell_states(plan, store)
        left = sum(not s.cached for s in states)
        computers.expect(plan.runs if left else ())
        shared = options.arguments and not options.no_wait and getattr(engine, "HELPERS", False)
        helpers = _helpers(plan, left) if shared else 0
        code, failures = 0, dict[str, str]()
        try:
            with (
                follow.followed(context, states, 1 + helpers) as hear,
                workers.started(helpers, options.arguments, begun, hear),
            ):
                failures = engine.run(context).failures
        except (Stopped, KeyboardInterrupt):
            code = stop.code or 130
        stored = sum(s.cached for s in cell_states(plan, store)) if code else len(states) - len(failures)
    board = None
    if not stop.at_last:
        with reporter.writing():
            board = write_reports(plan.out, plan=number)
    return Result(code or (1 if failures else 0), failures, plan.out, board, stored, len(states))


def _ended(result: Result, seconds: float) -> Ended:
    """Return the last event of a run."""
    page = "" if result.board is None else str(result.out / "leaderboard.html")
    return Ended(result.code, result.stored, result.cells, len(result.failures), round(seconds, 3), page)


def work(options: Options) -> None:
    """Compute cells of a plan that another process has stored and will report: what a worker does.

    It says what it computes as events on stdout, which that process reads.
    """
    stop, plan = StopRequest(options.time_limit), prepare(options)
    reporter = Reporter(Events())
    with Store.open(plan.out, create=True) as store, stop.signals(), contextlib.suppress(Stopped):
        plan = with_companions(plan, store)
        context = RunContext(plan, store, reporter, stop, options, "worker", started=workers.since())
        engines.load(options.engine).run(context)


def _helpers(plan: Plan, cells: int) -> int:
    """Return how many further processes should work on a plan: none on a GPU, none for images that fill a core."""
    if plan.device.type != "cpu" or torchrun.joined() is not None:
        return 0
    return workers.wanted(machine.limit_threads(math.prod(plan.dataset.shape)), cells) - 1
