"""manifest.json: what ran, on what, from which data, into which cells."""

from __future__ import annotations

from typing import Any

from bench.reports.board.model import Board, Row
from bench.reports.exports.json import dump


def manifest(board: Board) -> dict[str, Any]:
    """Return what made the board: command, suite, data, environment, and every cell with its key, state and time."""
    plan = board.plan
    kept = {"command", "created", "suite", "overrides", "data", "environment"}
    evaluations = {
        key: planned.model_dump(mode="json", exclude={"columns", "description"})
        for key, planned in plan.evaluations.items()
    }
    rows = [facts for row in board.rows for facts in row.facts.values()]
    return {
        "format": 1,
        **plan.model_dump(mode="json", include=kept),
        "evaluations": evaluations,
        "rows": [_manifest_row(facts) for facts in rows],
        "seconds": {
            "training": sum(f["training"].get("seconds", 0.0) for f in rows),
            "evaluation": sum(i.get("seconds", 0.0) for f in rows for i in f["info"].values()),
        },
    }


def row_manifest(row: Row) -> str:
    """Return a row's entries of manifest.json, one per seed, as text."""
    return dump([_manifest_row(facts) for facts in row.facts.values()])


def manifest_text(board: Board) -> str:
    """Return manifest.json."""
    return dump(manifest(board))


def _manifest_row(facts: dict[str, Any]) -> dict[str, Any]:
    kept = ("defense", "base", "version", "seed", "provenance", "hyperparameters", "recipe", "backbone", "train_cell")
    cells = {
        key: {"cell": cell, "status": facts["status"].get(key, "pending"), **facts["info"].get(key, {})}
        for key, cell in facts["evaluations"].items()
    }
    return {**{key: facts.get(key) for key in kept}, "training": facts["training"], "evaluations": cells}
