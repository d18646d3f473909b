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
def print_checks(  # noqa: PLR0917 - the command's options
    data: Data = None,
    detection: Annotated[
        bool, typer.Option("--detection", help="Measure what each attack finds of planted adversarial examples.")
    ] = False,
    museum: Annotated[
        bool, typer.Option("--museum", help="Put fakes, honest networks and broken attacks to the checks of trust.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="With --museum: only the exhibits of every test run.")] = False,
    exhibits: Annotated[
        Path | None, typer.Option("--exhibits", help="With --museum: folder of exhibits (runs as code), not our own.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With --detection: 200 images per network, not 40.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write what --detection or --museum measured here too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run, and smoke-test it; or measure the attacks' detection limits."""
    for option, given, wanted, there in (
        ("--full", full, "--detection", detection),
        ("--save", save, "--detection or --museum", detection or museum),
        ("--quick", quick, "--museum", museum),
        ("--exhibits", exhibits, "--museum", museum),
    ):
        if given and not there:
            raise UsageError(f"doctor {option}: expected {wanted} with it, got none. Add {wanted}.")
    if museum:
        _print_museum(data, exhibits, quick, save, as_json)
        return
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
    from bench.trust.detection import FULL_IMAGES, LEFT_OUT, PEER_PACKAGES, QUICK_IMAGES, measure_detection
    from bench.trust.detection_curves import summary_line

    start = time.process_time()
    report = measure_detection(images=FULL_IMAGES if full else QUICK_IMAGES, report_progress=complain)
    if save:
        save_measured(save, report.record(), time.process_time() - start, PEER_PACKAGES)
    if as_json:
        print_json(report.record())
        return
    console().print(detection_table(report))
    for name in report.not_installed:
        print(f"not measured: {name} (its library is not installed)")
    for name, reason in LEFT_OUT.items():
        print(f"not measured: {name} ({reason})")
    print(summary_line(report))


def _print_museum(data: Path | None, exhibits: Path | None, quick: bool, save: Path | None, as_json: bool) -> None:
    """Put the exhibits to the checks, print which fired; exit 1 if a fake passes or an honest network is flagged."""
    from bench.cli.museum_table import LEGEND, museum_tables, refusal_lines
    from bench.museum.folder import DATA, FOLDER
    from bench.museum.visit import Place, visit_museum

    place = Place(exhibits or FOLDER, data or (DATA if DATA.is_dir() else None))
    report = visit_museum(place, quick=quick, report_progress=complain)
    if save:
        save_measured(save, report.record(), report.seconds)
    if as_json:
        print_json(report.record())
    else:
        for table in museum_tables(report):
            console().print(table)
        print(LEGEND, *refusal_lines(report), sep="\n")
        for name in report.wrong:
            print(f"not as it should be: {name}")
        print(report.summary_line())
    raise typer.Exit(1 if report.wrong else 0)


def _table(checks: list[Check]) -> Table:
    view = Table(title="doctor", title_justify="left", header_style="bold")
    for column in ("check", "verdict", "found"):
        view.add_column(column)
    for check in checks:
        view.add_row(check.name, f"[{_COLOURS[check.verdict]}]{check.verdict}[/]", check.found)
    return view
