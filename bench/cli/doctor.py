"""The command `doctor`: what this machine can run."""

from __future__ import annotations

import typer
from rich.table import Table

from bench.cli.machine_checks import Check, run_checks
from bench.cli.options import AsJson, Data
from bench.cli.terminal import console, print_json

commands = typer.Typer()

_COLOURS = {"ok": "green", "note": "yellow", "fail": "bold red"}


@commands.command("doctor")
def print_checks(data: Data = None, as_json: AsJson = False) -> None:
    """Say what this machine can run, and smoke-test it."""
    found = run_checks(data)
    if as_json:
        print_json([check.record() for check in found])
    else:
        console().print(_table(found))
    raise typer.Exit(4 if any(check.verdict == "fail" for check in found) else 0)


def _table(checks: list[Check]) -> Table:
    view = Table(title="doctor", title_justify="left", header_style="bold")
    for column in ("check", "verdict", "found"):
        view.add_column(column)
    for check in checks:
        view.add_row(check.name, f"[{_COLOURS[check.verdict]}]{check.verdict}[/]", check.found)
    return view
