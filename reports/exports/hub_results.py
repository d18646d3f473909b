"""Robust accuracies as evaluation results of a model on the Hugging Face Hub: one `.eval_results` file per row.

The form is that of https://huggingface.co/docs/hub/eval-results as huggingface_hub 2.4 reads and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from bench.core import files
from bench.core.records import Grade, Role
from bench.data.info import DATASETS
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.model import Board, Row
from bench.reports.exports.registry import export

SHOWN: tuple[Role, ...] = ("clean", "robust", "best_known")  # roles of the columns that are written


@export("eval_results")
def texts(board: Board) -> dict[str, str]:
    """Return path to text of the files, one per row that may be quoted; none for data that the Hub does not have.

    `dataset.id` must be a repository on the Hub: only the original CIFAR-10, CIFAR-100 and SVHN have one. An
    incomplete or invalid row has no file.
    """
    data = board.plan.data
    repository = DATASETS[data.name].hub if data.original and data.name in DATASETS else ""
    if not repository:
        return {}
    found = {row.defense: list(_entries(board, row, repository)) for row in board.rows if _quotable(row)}
    return {f"eval_results/{files.safe_name(name)}.yaml": _yaml(entries) for name, entries in found.items() if entries}


def _quotable(row: Row) -> bool:
    """Return whether a row's numbers may stand on a model's page."""
    return not row.incomplete and row.trust is not Grade.INVALID


def _entries(board: Board, row: Row, repository: str) -> Iterator[dict[str, object]]:
    """Yield the entries of a row: one per clean or robust accuracy on test images."""
    for column in with_role(board.columns, *SHOWN):
        cell = row.cells.get(column.name)
        if cell is None or cell.value is None:
            continue
        dataset = {"id": repository, "task_id": column.name}
        date = board.plan.created.partition("T")[0]
        yield {"dataset": dataset, "value": cell.value, "date": date, "notes": _notes(board, row, column, cell.n)}


def _notes(board: Board, row: Row, column: BoardColumn, images: int) -> str:
    """Return what a reader must know of one number."""
    upper = "an upper bound only" if row.is_upper_bound and column.facts.role != "clean" else ""
    trust = f"trust {row.trust.name}" if row.trust is not None else "trust not assessed"
    seeds = formatting.plural(len(row.seeds), "training seed")
    parts = [f"fraction of {formatting.plural(images, 'test image')}", seeds, trust, upper]
    return "; ".join(filter(None, [*parts, f"bench {board.plan.environment.bench}"]))


def _yaml(entries: list[dict[str, object]]) -> str:
    """Return a list of entries as YAML; every scalar is written as JSON, which YAML reads."""
    lines = []
    for entry in entries:
        lead = "- "
        for key, value in entry.items():
            lines.append(f"{lead}{key}:" if isinstance(value, Mapping) else f"{lead}{key}: {_scalar(value)}")
            if isinstance(value, Mapping):
                lines += [f"    {name}: {_scalar(inner)}" for name, inner in value.items()]
            lead = "  "
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    """Return a string or a finite number as YAML; a number keeps its dot, without which YAML reads 1e-05 as a text."""
    if isinstance(value, float):
        return f"{value:.17g}" if "e" not in f"{value:.17g}" else f"{value:.20f}"
    return json.dumps(value, ensure_ascii=True)
