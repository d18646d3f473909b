"""The tables of `doctor --museum`: fake × check, and fault × test."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from bench.trust.museum import DOOR, BrokenAttack, Finding, MuseumReport

SEEN, ALSO, MISSED, SILENT, UNKNOWN = "●", "+", "!", "·", " "
LEGEND = "● fired as it should   + fired too   ! should have fired   · passed   blank: not assessable, or not reached"


def exhibit_rows(report: MuseumReport) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one row per exhibit: numbers, grade, one symbol per check, outcome."""
    heads = ["exhibit", "kind", "clean", "robust", "adaptive", "grade", *report.checks, "outcome"]
    rows = []
    for f in report.findings:
        numbers = [_percent(v) for v in (f.clean, f.robust, f.adaptive)]
        rows.append([f.exhibit, f.kind, *numbers, f.grade, *(_symbol(f, name) for name in report.checks), f.outcome])
    return heads, rows


def attack_rows(report: MuseumReport) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one row per fault: one symbol per test, outcome."""
    rows = []
    for attack in report.attacks:
        symbols = [_caught(attack, name) for name in report.tests]
        outcome = "missed" if attack.wrong else "caught" if attack.fault else "passes"
        rows.append([attack.fault or "none", *symbols, outcome])
    return ["fault", *report.tests, "outcome"], rows


def museum_tables(report: MuseumReport) -> list[Table]:
    """Return both tables for a terminal."""
    return [
        _table(f"museum of fakes, {report.threat}; robust: AutoAttack, %", exhibit_rows, report, 6),
        _table("broken attacks", attack_rows, report, 1),
    ]


def markdown_tables(report: MuseumReport) -> str:
    """Return both tables as Markdown."""
    parts = []
    for rows in (exhibit_rows, attack_rows):
        heads, lines = rows(report)
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)))
    return "\n\n".join(parts) + "\n"


def refusal_lines(report: MuseumReport) -> list[str]:
    """Return why exhibits were refused or skipped, one line each."""
    refused = [f"{f.exhibit}: refused: {f.refused}" for f in report.findings if f.refused]
    skipped = [f"{f.exhibit}: skipped: {f.skipped}" for f in report.findings if f.skipped]
    return refused + skipped


def _table(
    title: str,
    rows: Callable[[MuseumReport], tuple[list[str], list[list[str]]]],
    report: MuseumReport,
    first_symbol: int,
) -> Table:
    heads, lines = rows(report)
    view = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for number, head in enumerate(heads):
        view.add_column(head, justify="center" if first_symbol <= number < len(heads) - 1 else "left", no_wrap=True)
    for line in lines:
        view.add_row(*line, style="bold red" if line[-1] in ("missed", "overstated", "flagged") else None)
    return view


def _symbol(finding: Finding, check: str) -> str:
    expected, fired = check in finding.expected, check in finding.fired
    if fired:
        return SEEN if expected else ALSO
    if expected and not finding.skipped:
        return MISSED
    return SILENT if finding.verdicts.get(check) == "pass" or (check == DOOR and not finding.skipped) else UNKNOWN


def _caught(attack: BrokenAttack, test: str) -> str:
    if attack.caught_by[test]:
        return SEEN if test in attack.expected else ALSO
    return MISSED if test in attack.expected else SILENT


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}"
