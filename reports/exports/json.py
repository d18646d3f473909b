"""leaderboard.json: the board with intervals and the seeds' own values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict

from bench.core.stats.seeds import describe_seeds
from bench.reports.board.challenges import AppliedChallenge
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.board.repeats import Repeat
from bench.reports.exports.leaderboard import row_record
from bench.reports.exports.registry import export
from bench.trust.records import TrustReport


@export("leaderboard.json", media="application/json", label="JSON", order=20)
def json_text(board: Board) -> str:
    """Return leaderboard.json: the CSV's numbers, and for each its interval, n, nulls and the seeds' own values."""
    return dump(
        {
            "format": 1,
            "suite": board.plan.suite.name,
            "dataset": board.plan.data.name,
            "overrides": board.plan.overrides,
            "ranking": board.ranking or None,
            "smallest_resolvable_gap": board.resolvable,
            "notes": board.notes,
            "narrowed": _narrowed(board),
            "trust_checks": _checks(board),
            "columns": [_describe(column) for column in board.columns],
            "rows": [_json_row(row, board.columns) for row in board.rows],
            "pairs": [vars(pair) for pair in board.pairs],
            "challenges": [_challenge(one) for one in board.challenges],
            "claims": asdict(board.claims) if board.claims else None,
        }
    )


def _narrowed(board: Board) -> dict[str, object] | None:
    """Return to which of a folder's rows the report was narrowed; None where it shows all."""
    shown = board.shown
    if shown is None or not (shown.narrowed or shown.only):
        return None
    return {"defenses": list(shown.narrowed), "only": shown.only}


def _describe(column: BoardColumn) -> dict[str, object]:
    prose = ("description", "unit", "aggregate", "direction", "formula", "source")
    origin = {"evaluation": column.evaluation or None, "example_column": column.example_column or None}
    images = column.images or None
    return {"name": column.name, **{k: getattr(column.facts, k) for k in prose}, **origin, "images": images}


def _json_row(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, object]:
    return {
        **row_record(row, columns),
        "seed_list": list(row.seeds),
        "failures": list(row.failures),
        "missing": list(row.missing),
        "unranked": row.unranked,
        "randomised": asdict(row.apart) if row.apart else row.randomised,
        "planned_seeds": row.planned_seeds,
        "incomplete": row.incomplete,
        "variance": row.variance,
        "trust_report": _trust(row),
        "repeat": {str(seed): _repeat(found) for seed, found in row.repeats.items()},
        "train_time": asdict(row.train_time) if row.train_time else None,
        "audit": asdict(row.audit) if row.audit else None,
        "cells": {name: _json_cell(cell) for name, cell in row.cells.items()},
    }


def _trust(row: Row) -> dict[str, object] | None:
    """Return every check of every seed; None where trust was not assessed."""
    found = row.assessment
    if not found.reports and found.grade is None:
        return None
    return {
        "grade": found.grade.name if found.grade is not None else None,
        "worst_seed": found.seed,
        "reasons": list(found.reasons),
        "by_seed": {str(seed): _found(report) for seed, report in found.reports.items()},
    }


def _checks(board: Board) -> dict[str, dict[str, str]]:
    """Return what the checks of the board's reports are, by name; empty where trust was not assessed."""
    reports = (report for row in board.rows for report in row.assessment.reports.values())
    return {
        result.name: {"title": result.check.title, "severity": result.check.severity, "source": result.check.source}
        for report in reports
        for result in report.results
    }


def _found(report: TrustReport) -> dict[str, object]:
    """Return what the checks found on one model; infinity, which JSON does not have, is null: the words say it."""
    found = {
        result.name: {
            "verdict": result.verdict,
            "value": _finite(result.finding.value),
            "threshold": _finite(result.finding.threshold),
            "words": result.finding.words,
            "images": list(result.finding.images),
        }
        for result in report.results
    }
    return {"grade": report.grade.name, "adaptive": report.adaptive, "checks": found}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _repeat(found: Repeat) -> dict[str, object]:
    """Return what each attack alone broke, and the bound on a repeat with its sentence."""
    return {"only_by": [asdict(kind) for kind in found.kinds], **asdict(found.bound), "sentence": found.sentence}


def _challenge(applied: AppliedChallenge) -> dict[str, object]:
    record = applied.challenge
    names = ("defense", "seed", "weights", "norm", "eps", "credit", "method", "date")
    images = [entry.index for entry in record.entries]
    facts = {name: getattr(record, name) for name in names}
    return {**facts, "column": applied.column, "images": images, "lowered": list(applied.lowered)}


def _json_cell(cell: Cell) -> dict[str, object]:
    summary = describe_seeds(list(cell.by_seed.values())) if cell.by_seed else None
    return {
        "value": cell.value,
        "low": cell.low,
        "high": cell.high,
        "n": cell.n,
        "nulls": cell.nulls,
        "by_seed": {str(seed): value for seed, value in cell.by_seed.items()},
        "seed_sd": summary.sd if summary else None,
        "about": summary.about if summary else None,
    }


def dump(value: Mapping[str, object] | list[dict[str, object]]) -> str:
    """Return plain data as indented JSON that every reader can parse.

    Args:
        value: without NaN and infinity.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
