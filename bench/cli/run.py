"""The command `run`: a suite from its data to the board."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_board, print_json
from bench.core.errors import UsageError
from bench.core.processes import WORKER_MARK, torchrun_rank
from bench.core.text import one_line

if TYPE_CHECKING:
    from bench.running.dry_run import CellState
    from bench.running.pipeline import Result
    from bench.running.plan import Plan
    from bench.running.prepare import Options

commands = typer.Typer()


@commands.command()
def run(  # noqa: PLR0917 - the command's options
    suite: options.SuiteName = "digits",
    defense: options.Defenses = None,
    evaluation: options.Evaluations = None,
    seeds: options.Seeds = None,
    data: options.Data = None,
    out: options.Out = None,
    device: options.Device = "auto",
    limit: options.Limit = None,
    train_limit: options.TrainLimit = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of training on a GPU: auto, fp32, tf32 or bf16.")] = None,
    batch_size: options.BatchSize = "auto",
    step: Annotated[str, typer.Option(help="How a training step runs: auto, eager, graph or compile.")] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Train with the same bits each time, on a GPU too.")
    ] = False,
    time_limit: options.TimeLimit = None,
    hang_limit: options.HangLimit = None,
    engine: Annotated[str, typer.Option(help="Where cells run: local, ray, slurm or parts.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster; without it, one of this machine.")
    ] = None,
    per_task: Annotated[
        str | None, typer.Option(metavar="cpus=1,gpus=0.5,memory=4G", help="What a task of a Ray cluster takes.")
    ] = None,
    slurm: Annotated[
        str | None, typer.Option(metavar="partition=P,gpus=1,time=2h", help="What a job asks Slurm for.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone instead of the suite's.")] = None,
    attack_peer: options.AttackPeer = None,
    no_wait: options.NoWait = False,
    debug: options.Debug = False,
    include: options.Included = None,
    only: options.Only = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    as_json: options.Events = False,
) -> None:
    """Plan, train, evaluate and report a suite. The same command again finishes what is missing."""
    starting(suite, quiet or as_json)
    from bench.running import child, environment, prepare
    from bench.training.execution import ExecutionConfig, parse_step_mode

    for option, value in (("--address", address), ("--per-task", per_task), ("--slurm", slurm)):
        if value is not None and engine == "local":
            raise UsageError(f"{option}: expected an engine that runs on a cluster, got --engine local. Leave it out.")
    settings = prepare.Options(
        suite=suite,
        narrow={
            "defenses": tuple(defense or ()),
            "evaluations": tuple(evaluation or ()),
            "seeds": options.parse_seeds(seeds),
            "limit": limit,
            "train_limit": train_limit,
            "epochs": epochs,
            "precision": precision,
            "backbone": backbone,
            "attack_peer": attack_peer,
        },
        data_dir=data,
        out=out,
        device=device,
        batch_size=options.parse_batch_size(batch_size),
        execution=ExecutionConfig(parse_step_mode(step), deterministic),
        time_limit=options.parse_duration("--time-limit", time_limit),
        hang_limit=options.parse_duration("--hang-limit", hang_limit) or child.SILENT_SECONDS,
        engine=engine,
        address=address,
        resources=options.parse_resources("--per-task", per_task),
        slurm=options.parse_pairs("--slurm", slurm),
        no_wait=no_wait,
        debug=debug,
        quiet=quiet,
        events=as_json,
        only=only,
        included=tuple(str(p) for p in include or ()),
        command=environment.command_line(),
        arguments=tuple(sys.argv[1:]),
    )
    execute(settings, dry_run)


def starting(suite: str, quiet: bool) -> None:
    """Say on a terminal that the command has begun, before libraries are loaded: that takes seconds on a busy machine.

    Args:
        suite: as it was named.
        quiet: say nothing.
    """
    if not quiet and sys.stderr.isatty() and not os.environ.get(WORKER_MARK) and not torchrun_rank():
        complain(f"suite {suite}: loading torch and the data")


def execute(settings: Options, dry_run: bool) -> None:
    """Do what a command that plans cells is for: print the plan, or run it; a worker computes cells alone.

    Args:
        settings: of the command.
        dry_run: print the plan, and do nothing; nothing is downloaded.

    Raises:
        typer.Exit: with the run's code.
    """
    from bench.running import pipeline, workers
    from bench.running.dry_run import dry_run as plan_only

    rank = torchrun_rank()
    if workers.is_worker():
        pipeline.work(settings)
    elif dry_run:
        if not rank:  # of several processes the first one speaks
            plan, states = plan_only(replace(settings, download=False))
            print_json(plan_data(states)) if settings.events else print_plan(plan, states)
    elif rank is not None:
        _together(settings)
    else:
        finish(pipeline.run(settings), settings.events)


def _together(settings: Options) -> None:
    """Run a suite in the processes that torchrun has started: the first one runs it, the others train with it.

    Raises:
        typer.Exit: with the run's code.
    """
    from bench.running import pipeline, torchrun

    with torchrun.group(settings.device, settings.engine, settings.hang_limit) as group:
        if group.rank:
            torchrun.take_part(group)
        else:
            finish(pipeline.run(settings), settings.events)


def finish(result: Result, events: bool) -> NoReturn:
    """Print the board and what failed, and exit with the run's code.

    Args:
        result: of the run.
        events: whether stdout holds events, so that the board is not printed there.

    Raises:
        typer.Exit: always.
    """
    if result.board is not None and not events:
        print_board(result.board, result.out)
    for name, cause in result.failures.items():
        complain(f"{name}: {cause}")
    if result.code > 1:
        complain(f"stopped early: {result.stored} of {result.cells} cells stored. Run the same command again to go on.")
    raise typer.Exit(result.code)


def print_plan(plan: Plan, states: list[CellState]) -> None:
    """Print a dry run: one line per cell, then the sums."""
    for s in states:
        cost = "" if s.seconds is None or s.cached else f"  (took {s.seconds:.1f} s before)"
        why = "" if s.cached else f": {one_line(s.why)}"
        print(f"{'cached' if s.cached else 'to do ':6}  {one_line(s.name)}{why}{cost}")
    epochs = [r.job.recipe.epochs * len(r.job.train) for r in plan.runs]
    todo = {s.name for s in states if not s.cached}
    passes = sum(e for e, r in zip(epochs, plan.runs, strict=True) if f"train {r.label}" in todo)
    known = [s.seconds for s in states if not s.cached and s.seconds is not None]
    rest = len(todo) - len(known)
    times = f"{sum(known):.0f} s on one process for cells that have run before" if known else "no time known yet"
    print(
        f"estimated cost: {passes:,} training images; {times}"
        + (f", {rest} cells have no time yet" if rest and known else "")
    )
    print(f"cells: {len(states)}, cached: {sum(s.cached for s in states)}")


def plan_data(states: list[CellState]) -> dict[str, object]:
    """Return a dry run as plain data.

    Args:
        states: of the cells.
    """
    cells = [{"cell": s.name, "cached": s.cached, "why": s.why, "seconds_before": s.seconds} for s in states]
    return {"cells": cells, "counts": {"cells": len(states), "cached": sum(s.cached for s in states)}}
