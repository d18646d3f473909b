"""The main path on one screen: suite → plan → cells → report."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import engine, machine, reports, transfer, workers
from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite import Suite
from bench.config.suite_file import load_suite
from bench.core.errors import UsageError, nearest
from bench.core.files import safe_name
from bench.data import catalog
from bench.models import registry
from bench.plan import Plan, choose_device, make_plan
from bench.progress import Reporter
from bench.reports.board import Board
from bench.stopping import StopRequest
from bench.store.store import Store
from bench.training.execution import ExecutionConfig
from bench.training.loop import Stopped


@dataclass(frozen=True)
class Options:
    """The options of `run`, as parsed (README has the table).

    Attributes:
        suite: name or file of the suite.
        narrow: what the command line says about the suite's own keys (defenses, seeds, epochs, limit …).
        data_dir: where data sets are looked for first.
        out: result folder; None: results/<suite>.
        device: auto, cpu, cuda or cuda:i.
        batch_size: of evaluations; None: automatic.
        time_limit: seconds; None: none.
        included: third-party files that were imported.
        command: the command as typed.
        arguments: the command's arguments, for workers; empty: no workers.
        execution: how a training step is carried out.
        whole_trainings: give a training up that cannot end before the time limit, because no checkpoint outlives it.
    """

    suite: str = "digits"
    narrow: dict[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    out: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    time_limit: float | None = None
    no_wait: bool = False
    debug: bool = False
    quiet: bool = False
    included: tuple[str, ...] = ()
    command: str = ""
    arguments: tuple[str, ...] = ()
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    whole_trainings: bool = False


@dataclass(frozen=True)
class Result:
    """What a run came to: its exit code, failures by cell, the board, and where its files are."""

    code: int
    failures: dict[str, str]
    out: Path
    board: Board


def prepare(options: Options) -> Plan:
    """Load suite and data and plan every cell.

    Raises:
        UsageError: a name, key or value is wrong.
        IntegrityError, EnvironmentProblem: the data are damaged, or not there.
    """
    for path in options.included:
        registry.include(path)
    whole = load_suite(options.suite)
    suite = whole.narrowed(**{k: v for k, v in options.narrow.items() if k not in ("train_limit", "attack_peer")})
    if peer := options.narrow.get("attack_peer"):
        suite = with_peer(suite, peer)
    options.execution.settle()
    device = choose_device(options.device)
    dataset = catalog.load(
        suite.dataset,
        data_dir=options.data_dir,
        train_limit=options.narrow.get("train_limit"),
        limit=options.narrow.get("limit"),
    )
    if device.type == "cpu":
        machine.limit_threads(math.prod(dataset.shape))
    out = options.out or Path("results") / safe_name(suite.name)
    return make_plan(
        suite,
        dataset,
        device,
        out,
        command=options.command,
        overrides=_overrides(whole, options.narrow),
        included=options.included,
        execution=options.execution,
    )


def with_peer(suite: Suite, peer: str) -> Suite:
    """Return the suite with every attack that another library offers run by that library too, beside ours.

    Raises:
        UsageError: no evaluation of the suite has such a peer.
    """
    extra = []
    for entry in suite.evaluations:
        offered = _peers(entry)
        if peer in offered and not entry.arguments.get("peer"):
            arguments = {**entry.arguments, "peer": peer}
            extra.append(replace(entry, key=f"{entry.key}_{peer}", arguments=arguments))
    if not extra:
        known = {p for entry in suite.evaluations for p in _peers(entry)}
        raise UsageError(f"--attack-peer: expected a library that we wrap, got {peer!r}. {nearest(peer, known)}")
    return replace(suite, evaluations=(*suite.evaluations, *extra))


def _peers(entry: EvaluationConfig) -> tuple[str, ...]:
    return getattr(registry.evaluations.get(entry.evaluation).function, "__peers__", ())


def _overrides(suite: Suite, narrow: dict[str, Any]) -> dict[str, Any]:
    """Return what the command line changed in the suite: the board says so."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in narrow.items() if v is not None and v != ()}
    same = {"seeds": list(suite.seeds), "defenses": list(suite.defenses), "backbone": suite.backbone}
    return {k: v for k, v in plain.items() if same.get(k) != v}


def run(options: Options) -> Result:
    """Train what is missing, evaluate what is missing, report. Running it again recomputes nothing.

    Raises:
        BenchError: nothing could be done, or nothing more; its class says which exit code.
    """
    stop = StopRequest(options.time_limit)  # the clock runs while data are read
    plan = prepare(options)
    reporter = Reporter(options.quiet)
    reporter.say(f"suite {plan.suite.name} on {plan.dataset.name} ({plan.dataset.layout}), {plan.device}")
    if plan.dataset.note:
        reporter.say(plan.dataset.note)
    with Store.open(plan.out, create=True) as store, stop.signals():
        number = store.put_plan(plan.record())
        engine.bind_known(plan, number, store)
        context = engine.Context(
            plan, number, store, reporter, stop, options.batch_size, options.no_wait, options.debug,
            options.whole_trainings,
        )  # fmt: skip
        states = cell_states(plan, store)
        reporter.start(len(states), sum(s.cached for s in states))
        helpers = _helpers(plan, sum(not s.cached for s in states)) if options.arguments and not options.no_wait else 0
        code = 0
        try:
            with workers.started(helpers, options.arguments):
                engine.run_cells(context)
        except (Stopped, KeyboardInterrupt):
            code = stop.code or 130
        finally:
            reporter.stop()
    board = reports.write(plan.out)
    failures = context.outcome.failures
    return Result(code or (1 if failures else 0), failures, plan.out, board)


def work(options: Options) -> None:
    """Compute cells of a plan that another process has stored and will report: what a worker does."""
    stop, plan = StopRequest(options.time_limit), prepare(options)
    with Store.open(plan.out, create=True) as store, stop.signals(), contextlib.suppress(Stopped):
        context = engine.Context(plan, None, store, Reporter(quiet=True), stop, options.batch_size)
        engine.run_cells(context)


def _helpers(plan: Plan, cells: int) -> int:
    """Return how many further processes should work on a plan: none on a GPU, none for images that fill a core."""
    if plan.device.type != "cpu":
        return 0
    return workers.wanted(machine.limit_threads(math.prod(plan.dataset.shape)), cells) - 1


@dataclass(frozen=True)
class CellState:
    """One line of a dry run: a cell, whether it is stored, and if not, why not."""

    name: str
    cached: bool
    why: str = ""
    seconds: float | None = None


def cell_states(plan: Plan, store: Store | None) -> list[CellState]:
    """Say of every cell of a plan whether its result is stored; `store` is None where there is none yet."""
    states = []
    for row in plan.rows:
        record = store.cell(row.cell.id) if store else None
        weights = record.info["weights"] if record and record.status == "done" else None
        name = f"train {row.label}"
        states.append(_state(name, "train", row.cell.spec, weights is not None, store, row.label))
        for measurement in plan.measurements:
            name = f"{row.label}: {measurement.entry.key}"
            if weights is None:
                states.append(CellState(name, False, "its model is not trained yet", _seconds(store, name)))
                continue
            cell = measurement.cell(weights, row)
            found = store.cell(cell.id) if store else None
            done = found is not None and found.status == "done"
            states.append(_state(name, "evaluation", cell.spec, done, store, name))
    return states + _transfer_states(plan, store)


def _transfer_states(plan: Plan, store: Store | None) -> list[CellState]:
    """Say of every row's transfer whether it is stored: it waits for all attacks."""
    if transfer.measurement(plan) is None:
        return []
    ready = {t.row.label: t for t in transfer.targets(plan, store)} if store else {}
    states = []
    for row in plan.rows:
        name, target = f"{row.label}: {transfer.KEY}", ready.get(row.label)
        if target is None or store is None:
            states.append(CellState(name, False, "it waits for the attacks on all rows", _seconds(store, name)))
            continue
        cell = transfer.cell_of(plan, target)
        found = store.cell(cell.id)
        done = found is not None and found.status == "done"
        if not done and (missing := transfer.left_out(plan, store, target)):
            states.append(CellState(name, False, f"{missing} were left out when the results were packed"))
            continue
        states.append(_state(name, "evaluation", cell.spec, done, store, name))
    return states


def _state(name: str, kind: str, spec: dict[str, Any], done: bool, store: Store | None, stored_name: str) -> CellState:
    from bench.cells import difference

    if done or store is None:
        return CellState(name, done, "" if done else "nothing is stored yet")
    same = [c for c in store.cells(kind) if c.spec.get("name") == stored_name]
    if not same:
        return CellState(name, False, "never run")
    last = same[-1]
    changes = difference({k: v for k, v in last.spec.items() if k != "name"}, spec)
    unfinished = {"failed": f"failed: {last.error}", "running": "in progress", "pending": "unfinished"}
    why = "; ".join(changes) if changes else unfinished.get(last.status, last.status)
    return CellState(name, False, why, last.seconds)


def _seconds(store: Store | None, name: str) -> float | None:
    """Return how long a cell of that name took last time."""
    if store is None:
        return None
    times = [c.seconds for c in store.cells("evaluation") if c.spec.get("name") == name and c.seconds]
    return times[-1] if times else None


def dry_run(options: Options) -> tuple[Plan, list[CellState]]:
    """Plan without doing anything; a store is read if there is one, none is made."""
    plan = prepare(options)
    if not (plan.out / "bench.db").is_file():
        return plan, cell_states(plan, None)
    with Store.open(plan.out) as store:
        return plan, cell_states(plan, store)


def check_engine(engine_name: str, address: str | None) -> None:
    """Refuse an engine that does not exist yet.

    Raises:
        UsageError: anything but the local engine.
    """
    if engine_name != "local" or address:
        raise UsageError(
            f"--engine: expected local, got {engine_name!r}{' with --address' if address else ''}. "
            "The cluster engine is not built yet; run without --engine and --address."
        )
