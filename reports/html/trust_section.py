"""The page's section on trust: every row's grade with its reasons, the checks, a repeat, and the instruments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.formatting import Entry, Lines, Value
from bench.trust.registry import checks

SEVERITIES = {"validity": "the row is invalid", "adequacy": "an upper bound only", "soft": "grade B at best"}


@dataclass(frozen=True)
class TrustSection:
    """Tables of the section; empty where there is nothing to show.

    Attributes:
        grades: (defense, grade, worst seed, grades of all seeds, reasons) of every row that was assessed.
        checks: (check, what a fail means, passed, failed, could not be made, source), counted over models.
        models: how many models were assessed.
        repeats: (defense, seed, images, at most so many more, 95 % at most, why not) of the repeated attacks.
    """

    grades: Lines
    checks: Lines
    models: int
    repeats: Lines


def trust_section(board: Board) -> TrustSection:
    """Return the section of a board."""
    reports = [report for row in board.rows for report in row.assessment.reports.values()]
    return TrustSection(
        grades=tuple(_grade(row) for row in board.rows if row.trust is not None or row.assessment.reports),
        checks=tuple(_checks(board)) if reports else (),
        models=len(reports),
        repeats=tuple(line for row in board.rows for line in _repeats(row)),
    )


def _grade(row: Row) -> tuple[Entry, ...]:
    found = row.assessment
    seeds = ", ".join(f"{seed}: {report.grade.name}" for seed, report in found.reports.items())
    return (
        Value(row.defense),
        Value("not assessed" if found.grade is None else found.grade.name),
        Value(formatting.MISSING if found.seed is None else str(found.seed)),
        Value(seeds or formatting.MISSING),
        Value("; ".join(found.reasons) or "no check failed"),
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
            Value(row.defense),
            Value(seed, "integer"),
            Value(bound.images, "integer"),
            Value(bound.expected, "number"),
            Value(bound.upper, "number"),
            Value("; ".join(bound.obstacles)),
        )
