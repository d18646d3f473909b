"""The command `check`: what a file of one's own registers, against the contract that every entry keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.terminal import complain, print_line
from bench.core.errors import UsageError

commands = typer.Typer()


@commands.command()
def check(
    file: Annotated[Path, typer.Argument(help="Python file with defenses, attacks or evaluations (runs as code).")],
) -> None:
    """Try the contract on everything that a file registers: trained, attacked and measured on a few digits."""
    if file.suffix != ".py":
        raise UsageError(
            f"check: expected a Python file, got {str(file)!r}. For a suite file: python -m bench suite check {file}."
        )
    if not file.is_file():
        raise UsageError(f"check: expected a Python file, got {str(file)!r}, which is none. Check the path.")
    from bench.contracts.file import contracts_of

    broken = tried = 0
    for title, found in contracts_of(file):
        print_line(title)
        for verdict in found:
            tried, broken = tried + 1, broken + bool(verdict.problem)
            print_line(f"  {'BROKEN' if verdict.problem else 'kept  '}  {verdict.promise}")
            if verdict.problem:
                complain(f"    {verdict.problem}")
    print_line(f"promises: {tried}, broken: {broken}")
    raise typer.Exit(1 if broken else 0)
