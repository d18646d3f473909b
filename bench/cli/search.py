"""The command `search`: equally many trials for every defense, chosen by held-out training images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.run import execute, starting
from bench.cli.terminal import complain, print_line
from bench.core.errors import UsageError

commands = typer.Typer()


@commands.command()
def search(  # noqa: PLR0917 - the command's options
    defense: Annotated[
        list[str],
        typer.Option("--defense", metavar="SPACE", help="NAME:key=low..high,key=a|b|c,key=value (repeatable)."),
    ],
    budget: Annotated[int, typer.Option("--budget", min=1, metavar="N", help="Trials of every defense.")],
    suite: options.SuiteName = "digits",
    by: Annotated[
        str | None, typer.Option("--by", metavar="COLUMN", help="Column of the board that is to be best.")
    ] = None,
    at_least: Annotated[
        str | None, typer.Option("--at-least", metavar="COLUMN=VALUE,…", help="What an eligible trial must reach.")
    ] = None,
    holdout: Annotated[
        int | None,
        typer.Option("--holdout", min=1, help="Training images that decide (default: the suite's, or a tenth)."),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=0, help="Seed of the trials' settings.")] = 0,
    seeds: options.Seeds = None,
    data: options.Data = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Result folder (default: results/<suite>-search).")
    ] = None,
    device: options.Device = "auto",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First N held-out images.")] = None,
    train_limit: options.TrainLimit = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs instead of the recipe's.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", help="Backbone instead of the suite's.")] = None,
    time_limit: options.TimeLimit = None,
    include: options.Included = None,
    debug: options.Debug = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
) -> None:
    """Search hyper-parameters under an equal budget, on held-out training images. The same command again goes on."""
    starting(suite, quiet)
    from bench.running import environment, pipeline, prepare, workers
    from bench.running.search import outcome, planned

    settings = prepare.Options(
        suite=suite,
        narrow={
            "seeds": options.parse_seeds(seeds),
            "limit": limit,
            "train_limit": train_limit,
            "epochs": epochs,
            "backbone": backbone,
        },
        data_dir=data,
        out=out,
        device=device,
        time_limit=options.parse_duration("--time-limit", time_limit),
        debug=debug,
        quiet=quiet,
        included=tuple(str(p) for p in include or ()),
        command=environment.command_line(),
        arguments=tuple(sys.argv[1:]),
        held_out=holdout,
    )
    floors = _floors(at_least)
    plan = planned.plan_search(settings, defense, budget, by, floors, draws)
    if dry_run or workers.is_worker():
        execute(plan.options, dry_run)
        return
    result = pipeline.run(plan.options)
    for name, cause in result.failures.items():
        complain(f"{name}: {cause}")
    if result.code > 1 or result.board is None:
        complain(f"stopped early: {result.stored} of {result.cells} cells stored. Run the same command again to go on.")
        raise typer.Exit(result.code)
    found = outcome.searched(result.board, plan.spaces, plan.sought)
    again = outcome.fresh_command(suite, found, plan.seeds, _shared(data, train_limit, epochs, backbone, include))
    outcome.write(result.board, result.out, found, plan.sought, again)
    for line in outcome.table(found, plan.sought):
        print_line(line)
    for tried in found:
        if not tried.chosen:
            complain(f"{tried.space}: no trial is eligible.")
    print_line(result.out / "search.md")
    print_line(again)
    raise typer.Exit(result.code)


def _floors(text: str | None) -> dict[str, float]:
    """Return column to least value of `--at-least COLUMN=VALUE,…`; none if it was not given.

    Raises:
        UsageError: no number.
    """
    found = {}
    for name, value in options.parse_pairs("--at-least", text).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(
                f"--at-least: expected COLUMN=NUMBER, got {name}={value}. Write clean_accuracy=0.9."
            ) from None
    return found


def _shared(
    data: Path | None, train_limit: int | None, epochs: int | None, backbone: str | None, include: list[Path] | None
) -> list[str]:
    """Return the options of a search that the command for its choice has as well."""
    given = {"data": data, "train-limit": train_limit, "epochs": epochs, "backbone": backbone}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return [*words, *(word for path in include or () for word in ("--include", str(path)))]
