"""The commands `suite check` and `suite schema`: a suite file before it is run, and while it is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.terminal import print_json, print_line

if TYPE_CHECKING:
    from bench.config.evaluation_config import EvaluationConfig
    from bench.config.suite import Suite

commands = typer.Typer(no_args_is_help=True, help="Check a suite file; write the schema that editors check it with.")


@commands.command()
def check(
    file: Annotated[str, typer.Argument(help="A TOML file, or the name of a suite that ships.")],
    include: options.Included = None,
    data: options.Data = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what a suite would run, or everything that is wrong with it (exit 2). No data are loaded."""
    from bench.config.suite_file import load_suite
    from bench.core import discovery

    for path in include or ():
        discovery.include(path)
    suite = load_suite(file, data, argument="suite check")
    if as_json:
        print_json(facts(suite))
        return
    for line in lines(suite):
        print_line(line)


def facts(suite: Suite) -> dict[str, object]:
    """Return what a suite would run as plain data.

    Args:
        suite: as it was read.
    """
    return {
        "name": suite.name,
        "dataset": suite.dataset,
        "backbone": suite.backbone,
        "threat": {"norm": suite.threat.norm, "eps": suite.threat.eps},
        "seeds": list(suite.seeds),
        "defenses": [{"defense": str(d), "recipe": suite.recipe_of(d).settings()} for d in suite.defenses],
        "evaluations": [
            {"key": e.key, "evaluation": e.evaluation, "split": e.split, "limit": e.limit, "arguments": e.arguments}
            for e in suite.evaluations
        ],
        "trainings": len(suite.defenses) * len(suite.seeds),
    }


def lines(suite: Suite) -> list[str]:
    """Return what a suite would run, as lines for the terminal.

    Args:
        suite: as it was read.
    """
    from bench.config.suite_file import threats_tried

    recipes = {str(spec): suite.recipe_of(spec) for spec in suite.defenses}
    rows = [
        f"  {name}: {recipe.epochs} epochs, {recipe.schedule}, lr {recipe.lr:g}, batches of {recipe.batch_size}"
        for name, recipe in recipes.items()
    ]
    seeds = ", ".join(map(str, suite.seeds))
    models = len(rows) * len(suite.seeds)
    ranked = f"ranked by {suite.threat}" if threats_tried(suite) else "no attack that ranks"
    return [
        f"{suite.name} on {suite.dataset}, {suite.backbone}, {ranked}",
        f"trains {_plural(len(rows), 'defense')} with {_plural(len(suite.seeds), 'seed')} ({seeds}):",
        *rows,
        "evaluates each of them by:",
        *(f"  {_evaluation(entry)}" for entry in suite.evaluations),
        f"trainings: {models}, evaluations: {models * len(suite.evaluations)} (and those that come with an attack by "
        "themselves: `run --dry-run` lists every cell)",
    ]


def _evaluation(entry: EvaluationConfig) -> str:
    """Return an evaluation as a line: its key, its images, and the arguments that the file or the entry set."""
    of = "" if entry.evaluation == entry.key else f" ({entry.evaluation})"
    images = f"the first {entry.limit:,}" if entry.limit else "all"
    arguments = ", ".join(f"{name} = {_shown(value)}" for name, value in entry.arguments.items() if value != "")
    return f"{entry.key}{of} on {images} {entry.split} images" + (f": {arguments}" if arguments else "")


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) if len(value) == 1 else f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@commands.command()
def schema(
    to: Annotated[Path | None, typer.Option("--to", help="File to write (default: standard output).")] = None,
    include: options.Included = None,
) -> None:
    """Write the JSON Schema of a suite file: an editor then completes and checks its keys."""
    import json

    from bench.config.suite_schema import suite_schema
    from bench.core import discovery, files

    for path in include or ():
        discovery.include(path)
    text = json.dumps(suite_schema(), indent=1) + "\n"
    if to is None:
        sys.stdout.write(text)
        return
    files.write_text(to, text)
    print_line(f"written: {to}. First line of a suite file that uses it: #:schema {to}")
