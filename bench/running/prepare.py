"""From a command's options to a plan: suite, data, device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite import Suite
from bench.config.suite_file import load_suite
from bench.core import discovery, registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.files import safe_name
from bench.data import catalog
from bench.data.split import on_held_out
from bench.running import engines, machine
from bench.running.child import SILENT_SECONDS
from bench.running.environment import choose_device
from bench.running.handed_over import Submission, register
from bench.running.plan import Plan, make_plan
from bench.training.execution import ExecutionConfig

HELD_OUT_SHARE, MOST_HELD_OUT = 10, 5000  # one of ten training images, where neither suite nor command says how many


@dataclass(frozen=True)
class Options:
    """The options of `run`, as parsed (docs/reference/commands.md has the table).

    Attributes:
        suite: name or file of the suite.
        narrow: what the command line says about the suite's own keys (defenses, seeds, epochs, limit …).
        data_dir: where data sets are looked for first.
        out: result folder; None: results/<suite>.
        device: auto, cpu, cuda or cuda:i.
        batch_size: of evaluations; None: automatic.
        time_limit: seconds; None: none.
        events: say what happens as one JSON object per line on stdout.
        download: whether data that are not here may be fetched.
        only: the board shows this command's rows alone, without those of earlier commands.
        engine: where cells run, a module of bench/running/engines.
        address: of a cluster; None: one of this machine.
        resources: "cpus", "gpus" and bytes of "memory" that a task of a cluster takes.
        slurm: what a job asks Slurm for, e.g. partition.
        included: third-party files that were imported.
        command: the command as typed.
        arguments: the command's arguments, for workers; empty: no workers.
        execution: how a training step is carried out.
        hang_limit: seconds for which third parties' code may give no sign of life.
        model: a trained model that is the plan's only row, in the place of the suite's defenses; None: none.
        held_out: training images that are kept apart and take the test images' place; 0: the suite's `holdout`, or a
            tenth of them and at most 5,000. None: the test images stay.
        whole_trainings: give a training up that cannot end before the time limit, because no checkpoint outlives it.
    """

    suite: str = "digits"
    narrow: Mapping[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    out: Path | None = None
    device: str = "auto"
    batch_size: int | None = None
    time_limit: float | None = None
    engine: str = "local"
    address: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    slurm: Mapping[str, str] = field(default_factory=dict)
    no_wait: bool = False
    debug: bool = False
    quiet: bool = False
    events: bool = False
    download: bool = True
    only: bool = False
    included: tuple[str, ...] = ()
    command: str = ""
    arguments: tuple[str, ...] = ()
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    hang_limit: float = SILENT_SECONDS
    held_out: int | None = None
    whole_trainings: bool = False
    model: Submission | None = None


def prepare(options: Options) -> Plan:
    """Load suite and data and plan every cell.

    Args:
        options: of the command.

    Returns:
        The plan.

    Raises:
        UsageError: a name, key or value is wrong.
        IntegrityError, MachineError: the data are damaged, or not there.
    """
    engines.load(options.engine)  # a wrong name is said before anything expensive
    for path in options.included:
        discovery.include(path, min(options.hang_limit, options.time_limit or options.hang_limit))
    whole = load_suite(options.suite, options.data_dir)
    narrow = dict(options.narrow)
    if options.model is not None:
        given = options.model
        register(given.model, given.name, source=given.source, title=given.title, link=given.link)
        narrow |= {"defenses": (given.name,), "seeds": (0,)}
    suite = whole.with_overrides(**{k: v for k, v in narrow.items() if k not in ("train_limit", "attack_peer")})
    if peer := options.narrow.get("attack_peer"):
        suite = with_peer(suite, peer)
    options.execution.apply()
    device = choose_device(options.device)
    dataset = catalog.load(
        suite.dataset,
        data_dir=options.data_dir,
        train_limit=options.narrow.get("train_limit"),
        limit=options.narrow.get("limit"),
        own=suite.own,
        download=options.download,
        need_train=options.model is None or any(e.split == "train" for e in suite.evaluations),
    )
    if options.held_out is not None:
        n = options.held_out or suite.holdout or min(MOST_HELD_OUT, len(dataset.train) // HELD_OUT_SHARE)
        dataset, suite = on_held_out(dataset, n), replace(suite, holdout=0)
    if device.type == "cpu":
        machine.limit_threads(math.prod(dataset.shape))
    out = options.out or Path("results") / safe_name(suite.name)
    return make_plan(
        suite,
        dataset,
        device,
        out,
        command=options.command,
        overrides=_overrides(whole, suite, options.narrow),
        included=options.included,
        execution=options.execution,
        hang_limit=min(options.hang_limit, options.time_limit or options.hang_limit),
        only=options.only,
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
        raise UsageError(f"--attack-peer: expected a library that we wrap, got {peer!r}. {did_you_mean(peer, known)}")
    return replace(suite, evaluations=(*suite.evaluations, *extra))


def _peers(entry: EvaluationConfig) -> tuple[str, ...]:
    return registry.evaluations.get(entry.evaluation).peers


def _overrides(whole: Suite, suite: Suite, narrow: Mapping[str, Any]) -> dict[str, object]:
    """Return what the command line changed in the suite `whole`, which became `suite`: the board says so."""
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in narrow.items() if v is not None and v != ()}
    before, after = (
        {"seeds": list(s.seeds), "defenses": [str(spec) for spec in s.defenses], "backbone": s.backbone}
        for s in (whole, suite)
    )
    return {k: after.get(k, v) for k, v in plain.items() if before.get(k) != after.get(k, v)}
