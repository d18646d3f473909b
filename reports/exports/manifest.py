"""manifest.json: what ran, on what, from which data, into which cells."""

from __future__ import annotations

from bench.reports.board.model import Board, Row
from bench.reports.board.parts import RunFacts
from bench.reports.board.training_cost import seconds
from bench.reports.exports.json import dump
from bench.reports.exports.registry import export


def manifest(board: Board) -> dict[str, object]:
    """Return what made the board: command, suite, data, environment, and every cell with its key, state and time."""
    plan = board.plan
    kept = plan.model_dump(mode="json", include={"command", "created", "suite", "overrides", "data", "environment"})
    evaluations = {
        key: planned.model_dump(mode="json", exclude={"columns", "description"})
        for key, planned in plan.evaluations.items()
    }
    runs = [run for row in board.rows for run in row.runs.values()]
    return {
        "format": 1,
        **kept,
        "evaluations": evaluations,
        "notes": board.notes,
        "rows": [_manifest_run(run) for run in runs],
        "seconds": {
            "kind": "CPU time of each cell, or the GPU's own, added up; processes overlap, so the run took less",
            "training": sum(seconds(run.training) or 0.0 for run in runs),
            "evaluation": sum(seconds(i) or 0.0 for run in runs for i in run.info.values()),
        },
    }


def row_manifest(row: Row) -> str:
    """Return a row's entries of manifest.json, one per seed, as text.

    Args:
        row: of the board.
    """
    return dump([_manifest_run(run) for run in row.runs.values()])


@export("manifest.json", media="application/json", label="Manifest", order=70)
def manifest_text(board: Board) -> str:
    """Return manifest.json."""
    return dump(manifest(board))


_KEPT = ("defense", "base", "version", "seed", "provenance", "hyperparameters", "recipe", "backbone", "train_cell")


def _manifest_run(run: RunFacts) -> dict[str, object]:
    entry = run.entry.model_dump(mode="json", include=set(_KEPT))
    cells = {
        key: {"cell": cell, "status": run.status.get(key, "pending"), **run.info.get(key, {})}
        for key, cell in run.entry.evaluations.items()
    }
    return {**{key: entry[key] for key in _KEPT}, "training": run.training, "evaluations": cells}
