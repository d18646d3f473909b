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
    suite: Annotated[str, typer.Option("--suite", help="Name of a suite, or a TOML file.")] = "digits",
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="First N test images.")] = None,
    train_limit: Annotated[
        int | None, typer.Option(min=1, help="First N training images, where an evaluation is run on those.")
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Images per call: a number, or auto.")] = "auto",
    time_limit: Annotated[str | None, typer.Option(help="Stop in time, e.g. 9m; run again to go on.")] = None,
    hang_limit: Annotated[
        str | None, typer.Option(help="End the model's process after so long without a sign of life: 10m.")
    ] = None,
    attack_peer: Annotated[str | None, typer.Option(help="Also run the attacks by another library.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Exit 7 if another run holds the cells.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    include: options.Included = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what is cached; do nothing.")] = False,
    only: options.Only = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the board.")] = False,
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
