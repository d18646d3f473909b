"""The page's section on trust: every row's grade with its reasons, the checks, a repeat, and the instruments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.core.records import Grade
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
        grades: (title, grade with the seed that gave it, grades of all seeds if there are several, reasons not in
            `shared`) of every row.
        checks: (check, what a fail means, passed, failed, could not be made, source), counted over models.
        models: how many models were assessed.
        detection: what the attacks find of known adversarial examples; None where this version ships no measurement.
        figure: that drawn.
        museum: what the checks found on fakes and honest networks; None likewise.
        exhibits: (network, idea, grade, checks that fired, that should have, outcome) of the museum.
        repeats: (title, seed, images, at most so many more, 95 % at most, why not) of the repeated attacks.
        seeds: the largest number of seeds of a row; grades seed by seed are left out where it is 1.
        shared: reasons that part every row without an A from it, if there are several such rows; "" if there are none.
    """

    grades: Lines
    checks: Lines
    models: int
    repeats: Lines
    detection: Detection | None = None
    figure: Figure | None = None
    museum: MuseumReport | None = None
    exhibits: Lines = ()
    seeds: int = 1
    shared: str = ""


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
    shared = _shared(board)
    seeds = max((len(row.assessment.reports) for row in board.rows), default=1)
    return TrustSection(
        grades=tuple(_grade(row, shared, seeds) for row in board.rows) if reports else (),
        checks=tuple(_checks(board)) if reports else (),
        models=len(reports),
        repeats=tuple(line for row in board.rows for line in _repeats(row)),
        detection=detection,
        figure=figure,
        museum=museum,
        exhibits=tuple(map(_exhibit, museum.findings)) if museum else (),
        seeds=seeds,
        shared="; ".join(shared),
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


def _shared(board: Board) -> tuple[str, ...]:
    """Return the reasons that all assessed rows without an A have, in order; none of fewer than two rows."""
    below = [row.assessment.short_of_a for row in board.rows if row.assessment.grade not in (None, Grade.A)]
    return tuple(reason for reason in below[0] if all(reason in other for other in below)) if len(below) > 1 else ()


def _grade(row: Row, shared: tuple[str, ...], most: int) -> tuple[Entry, ...]:
    """Return title, grade, grades of the seeds if `most` is above 1, and what the row lacks of an A beside `shared`."""
    found = row.assessment
    if found.grade in (None, Grade.A):
        shared = ()
    others = [reason for reason in found.short_of_a if reason not in shared]
    seeds = ", ".join(f"{seed}: {report.grade.name}" for seed, report in found.reports.items())
    grade = "not assessed" if found.grade is None else found.grade.name
    return (
        Value(row.title),
        Value(f"{grade}, {found.who}" if found.who else grade),
        *((Value(seeds or formatting.MISSING),) if most > 1 else ()),
        Value("; ".join(others) or ("nothing else" if found.short_of_a else "every check passed")),
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
