"""The page's section on trust: every row's grade with its reasons, the checks, a repeat, and the instruments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.reports import formatting
from bench.reports.board.instruments import Detection
from bench.reports.board.model import Board, Row
from bench.reports.figures.detection import detection_figure
from bench.reports.figures.figure import Figure
from bench.reports.figures.sheet import style
from bench.reports.formatting import Entry, Lines, Value
from bench.trust.museum import Finding, MuseumReport
from bench.trust.registry import checks

SEVERITIES = {"validity": "the row is invalid", "adequacy": "an upper bound only", "soft": "grade B at best"}


@dataclass(frozen=True)
class TrustSection:
    """Tables of the section; empty where there is nothing to show.

    Attributes:
        grades: (title, grade with the seed that gave it, grades of all seeds, reasons) of every row.
        checks: (check, what a fail means, passed, failed, could not be made, source), counted over models.
        models: how many models were assessed.
        detection: what the attacks find of known adversarial examples; None where this version ships no measurement.
        figure: that drawn.
        museum: what the checks found on fakes and honest networks; None likewise.
        exhibits: (network, idea, grade, checks that fired, that should have, outcome) of the museum.
        repeats: (title, seed, images, at most so many more, 95 % at most, why not) of the repeated attacks.
    """

    grades: Lines
    checks: Lines
    models: int
    repeats: Lines
    detection: Detection | None = None
    figure: Figure | None = None
    museum: MuseumReport | None = None
    exhibits: Lines = ()


def trust_section(board: Board, detection: Detection | None, museum: MuseumReport | None) -> TrustSection:
    """Return the section of a board.

    Args:
        board: what was measured.
        detection: what the attacks find of known adversarial examples; None: not known.
        museum: what the checks found on fakes and honest networks; None: not known.

    Returns:
        Its tables.
    """
    with style():
        figure = None if detection is None else detection_figure(board, detection)
    reports = [report for row in board.rows for report in row.assessment.reports.values()]
    return TrustSection(
        grades=tuple(_grade(row) for row in board.rows) if reports else (),
        checks=tuple(_checks(board)) if reports else (),
        models=len(reports),
        repeats=tuple(line for row in board.rows for line in _repeats(row)),
        detection=detection,
        figure=figure,
        museum=museum,
        exhibits=tuple(map(_exhibit, museum.findings)) if museum else (),
    )


def _exhibit(found: Finding) -> tuple[Entry, ...]:
    """Return a network of the museum: what it is, its grade, what fired, what should have, and what became of it."""
    return (
        Value(found.exhibit.replace("_", " ")),
        Value(found.idea),
        Value(found.grade or formatting.MISSING),
        Value(", ".join(found.fired) or "none"),
        Value(", ".join(found.expected) or "none"),
        Value(found.outcome),
    )


def _grade(row: Row) -> tuple[Entry, ...]:
    found = row.assessment
    seeds = ", ".join(f"{seed}: {report.grade.name}" for seed, report in found.reports.items())
    grade = "not assessed" if found.grade is None else found.grade.name
    return (
        Value(row.title),
        Value(f"{grade}, {found.who}" if found.who else grade),
        Value(seeds or formatting.MISSING),
        Value("; ".join(found.short_of_a) or "every check passed"),
    )


def _checks(board: Board) -> Iterator[tuple[Entry, ...]]:
    """Yield every check with how many models of the board passed it, failed it, or could not be asked."""
    verdicts: dict[str, list[str]] = {}
    for row in board.rows:
        for report in row.assessment.reports.values():
            for result in report.results:
                verdicts.setdefault(result.name, []).append(result.verdict)
    for check in checks():
        found = verdicts.get(check.name, [])
        counts = (found.count(verdict) for verdict in ("pass", "fail", "not assessable"))
        yield (
            Value(f"{check.name}: {check.title}"),
            Value(SEVERITIES[check.severity]),
            *(Value(k, "integer") for k in counts),
            Value(check.source),
        )


def _repeats(row: Row) -> Iterator[tuple[Entry, ...]]:
    for seed, found in row.repeats.items():
        bound = found.bound
        yield (
            Value(row.title),
            Value(seed, "integer"),
            Value(bound.images, "integer"),
            Value(bound.expected, "number"),
            Value(bound.upper, "number"),
            Value("; ".join(bound.obstacles)),
        )
