"""leaderboard.json: the board with intervals and the seeds' own values."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bench.core.records import Column
from bench.core.stats.seeds import describe_seeds
from bench.reports.board.model import Board, BoardColumn, Row
from bench.reports.exports.leaderboard import row_record


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
            "columns": [_describe(column) for column in board.columns],
            "rows": [_json_row(row, board.columns) for row in board.rows],
            "pairs": [vars(pair) for pair in board.pairs],
            "claims": asdict(board.claims) if board.claims else None,
        }
    )


def _describe(column: BoardColumn) -> dict[str, Any]:
    facts: Column = column.facts
    words_of = {k: getattr(facts, k) for k in ("description", "unit", "aggregate", "direction", "formula", "source")}
    origin = {"evaluation": column.evaluation or None, "example_column": column.example_column or None}
    return {"name": column.name, **words_of, **origin}


def _json_row(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, Any]:
    cells = {}
    for name, cell in row.cells.items():
        by_seed = {str(seed): value for seed, value in cell.by_seed.items()}
        summary = describe_seeds(list(cell.by_seed.values())) if by_seed else None
        cells[name] = {
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n,
            "nulls": cell.nulls,
            "by_seed": by_seed,
            "seed_sd": summary.sd if summary else None,
            "about": summary.about if summary else None,
        }
    extra = {
        "failures": list(row.failures),
        "missing": list(row.missing),
        "unranked": row.unranked,
        "variance": row.variance,
    }
    return {**row_record(row, columns), "seed_list": list(row.seeds), **extra, "cells": cells}


def dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
