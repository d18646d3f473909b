"""The command `doctor`: what this machine can run, and what the attacks can find."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bench.cli.machine_checks import Check, run_checks
from bench.cli.measured import save_measured
from bench.cli.options import AsJson, Data
from bench.cli.terminal import complain, console, print_json
from bench.core.errors import UsageError

commands = typer.Typer()

_COLOURS = {"ok": "green", "note": "yellow", "fail": "bold red"}


@commands.command("doctor")
def print_checks(
    data: Data = None,
    detection: Annotated[
        bool, typer.Option("--detection", help="Measure what each attack finds of planted adversarial examples.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="With --detection: 200 images per network, not 40.")] = False,
    save: Annotated[Path | None, typer.Option("--save", help="With --detection: write the record here too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run, and smoke-test it; or measure the attacks' detection limits."""
    if (full or save) and not detection:
        option = "--full" if full else "--save"
        raise UsageError(f"doctor {option}: expected --detection with it, got none. Add --detection.")
    if detection:
        _print_detection(full, save, as_json)
        return
    found = run_checks(data)
    if as_json:
        print_json([check.record() for check in found])
    else:
        console().print(_table(found))
    raise typer.Exit(4 if any(check.verdict == "fail" for check in found) else 0)


def _print_detection(full: bool, save: Path | None, as_json: bool) -> None:
    """Measure, save and print the detection curves; the last line names the suites' own attacks and their limits."""
    from bench.cli.detection_table import detection_table
    from bench.trust.detection import FULL_IMAGES, QUICK_IMAGES, measure_detection
    from bench.trust.detection_curves import summary_line

    start = time.process_time()
    report = measure_detection(images=FULL_IMAGES if full else QUICK_IMAGES, report_progress=complain)
    if save:
        save_measured(save, report.record(), time.process_time() - start)
    if as_json:
        print_json(report.record())
        return
    console().print(detection_table(report))
    for name in report.not_installed:
        print(f"not measured: {name} (its library is not installed)")
    print(summary_line(report))


def _table(checks: list[Check]) -> Table:
    view = Table(title="doctor", title_justify="left", header_style="bold")
    for column in ("check", "verdict", "found"):
        view.add_column(column)
    for check in checks:
        view.add_row(check.name, f"[{_COLOURS[check.verdict]}]{check.verdict}[/]", check.found)
    return view
