"""The command `evaluate`: a trained model of somebody's becomes a row of the board, without training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run import execute, starting
from bench.core.errors import UsageError
from bench.core.registry import NAME

commands = typer.Typer()


@commands.command()
def evaluate(  # noqa: PLR0917 - the command's options
    model: Annotated[str, typer.Option("--model", help="FILE.py:FACTORY; FACTORY() returns the network.")],
    suite: options.SuiteName = "digits",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights: .safetensors, or what torch.save wrote.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the row (default: the weights' file, or the factory).")
    ] = None,
    title: Annotated[str, typer.Option(help="Name of the method, for readers.")] = "",
    source: Annotated[str, typer.Option(help="Paper and place that the model comes from.")] = "",
    link: Annotated[str, typer.Option(help="Address of the paper or of the weights.")] = "",
    evaluation: options.Evaluations = None,
    data: options.Data = None,
    out: options.Out = None,
    device: options.Device = "auto",
    limit: options.Limit = None,
    train_limit: options.TrainLimit = None,
    batch_size: options.BatchSize = "auto",
    time_limit: options.TimeLimit = None,
    hang_limit: options.HangLimit = None,
    attack_peer: options.AttackPeer = None,
    no_wait: options.NoWait = False,
    debug: options.Debug = False,
    include: options.Included = None,
    dry_run: options.DryRun = False,
    only: options.Only = False,
    quiet: options.Quiet = False,
    as_json: options.Events = False,
) -> None:
    """Put a trained model on the board: the suite's evaluations, no training. FILE.py runs as code."""
    starting(suite, quiet or as_json)
    from bench.running import child, environment, handed_over, prepare

    given = handed_over.parse_model(model, weights)
    row = name or handed_over.default_name(given)
    if not NAME.fullmatch(row):
        raise UsageError(f"--name: expected letters, digits, '.', '_' and '-', up to 64, got {row!r}. Rename it.")
    settings = prepare.Options(
        suite=suite,
        narrow={
            "evaluations": tuple(evaluation or ()),
            "limit": limit,
            "train_limit": train_limit,
            "attack_peer": attack_peer,
        },
        data_dir=data,
        out=out,
        device=device,
        batch_size=options.parse_batch_size(batch_size),
        time_limit=options.parse_duration("--time-limit", time_limit),
        hang_limit=options.parse_duration("--hang-limit", hang_limit) or child.SILENT_SECONDS,
        no_wait=no_wait,
        debug=debug,
        quiet=quiet,
        events=as_json,
        only=only,
        included=(*(str(p) for p in include or ()), str(given.file)),
        command=environment.command_line(),
        arguments=tuple(sys.argv[1:]),
        model=handed_over.Submission(given, row, source, title, link),
    )
    execute(settings, dry_run)
