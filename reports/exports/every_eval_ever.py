"""Rows as aggregate records of Every Eval Ever, a common form for evaluation results: one JSON per row.

The form is schema 0.3.0 of https://github.com/evaleval/every_eval_ever (MIT), in the folders of its data store.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from bench.core import files
from bench.data.info import DATASETS
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.exports.json import dump
from bench.reports.exports.registry import export

SCHEMA = "0.3.0"
DEVELOPER = "adversarial-bench"
NAMES = uuid.UUID("6d3f0c56-7a0e-5b5c-9a6e-0d1c6f3f3b52")  # of the files' names: drawn once, never changed


@export("every_eval_ever")
def texts(board: Board) -> dict[str, str]:
    """Return `data/<suite>/<developer>/<row>/<uuid>.json` to text, one per row with a number.

    The UUID is that of suite, images and row: the same board writes the same files.
    """
    suite, found = files.safe_name(board.plan.suite.name), {}
    for row in board.rows:
        results = [_result(board, column, cell) for column, cell in _numbers(board, row)]
        if results:
            name = uuid.uuid5(NAMES, f"{suite}/{board.plan.data.test.fingerprint}/{row.defense}")
            place = f"data/{suite}/{DEVELOPER}/{files.safe_name(row.defense)}/{name}.json"
            found[f"every_eval_ever/{place}"] = dump(_record(board, row, results))
    return found


def _numbers(board: Board, row: Row) -> list[tuple[BoardColumn, Cell]]:
    """Return the row's measured numbers on test images that have a better and a worse direction."""
    columns = [c for c in board.columns if c.evaluation and c.split == "test" and c.facts.direction != "none"]
    cells = [(column, row.cells.get(column.name)) for column in columns]
    return [(column, cell) for column, cell in cells if cell is not None and cell.value is not None]


def _record(board: Board, row: Row, results: list[dict[str, object]]) -> dict[str, object]:
    """Return the whole record of a row."""
    plan, created = board.plan, datetime.fromisoformat(board.plan.created).timestamp()
    name = f"{DEVELOPER}/{files.safe_name(row.defense)}"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{files.safe_name(plan.suite.name)}/{name}/{created}",
        "evaluation_timestamp": plan.created,
        "retrieved_timestamp": str(created),
        "source_metadata": {
            "source_name": f"bench, suite {plan.suite.name}",
            "source_type": "evaluation_run",
            "source_organization_name": "not stated",
            "evaluator_relationship": "other" if row.handed_over else "first_party",
            "additional_details": {"command": plan.command, "commit": plan.environment.commit or "unknown"},
        },
        "eval_library": {"name": "adversarial-bench", "version": plan.environment.bench},
        "model_info": {
            "name": row.title,
            "id": name,
            "inference_engine": {"name": "torch", "version": plan.environment.torch},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "architecture": row.architecture,
                "source": row.entry.source,
                "provenance": row.entry.provenance,
                "training_seeds": ",".join(map(str, row.seeds)),
                "trust": row.trust.name if row.trust is not None else "not assessed",
                "doubt": row.doubt or "none",
            },
        },
        "evaluation_results": results,
    }


def _result(board: Board, column: BoardColumn, cell: Cell) -> dict[str, object]:
    """Return one number with its metric, data, interval and seeds."""
    facts, fraction = column.facts, column.facts.aggregate == "fraction"
    metric: dict[str, object] = {
        "evaluation_description": facts.description,
        "metric_id": f"bench.{column.name}",
        "metric_name": column.heading or column.name,
        "metric_kind": "accuracy" if fraction else facts.role,
        "metric_unit": "proportion" if fraction else facts.unit or "pure number",
        "metric_parameters": dict(facts.params),
        "lower_is_better": facts.direction == "lower",
        "score_type": "continuous",
        "min_score": 0 if fraction else None,
        "max_score": 1 if fraction else None,
    }
    method = "Wilson" if fraction else "bootstrap over images"
    interval = {"lower": cell.low, "upper": cell.high, "confidence_level": 0.95, "method": method}
    return {
        "evaluation_name": column.name,
        "source_data": _data(board, cell.n),
        "metric_config": metric,
        "score_details": {
            "score": cell.value,
            "details": {f"training seed {seed}": repr(value) for seed, value in cell.by_seed.items()},
            "uncertainty": {"num_samples": cell.n}
            | ({} if cell.low is None or cell.high is None else {"confidence_interval": interval}),
        },
    }


def _data(board: Board, images: int) -> dict[str, object]:
    """Return which images a number was measured on."""
    data = board.plan.data
    repository = DATASETS[data.name].hub if data.original and data.name in DATASETS else ""
    details = {"test_images_sha256": data.test.fingerprint, "images": formatting.plural(images, "test image")}
    if not repository:
        return {"dataset_name": data.name, "source_type": "other", "additional_details": details}
    source: dict[str, object] = {"dataset_name": data.name, "source_type": "hf_dataset", "hf_repo": repository}
    return source | {"hf_split": "test", "samples_number": images, "additional_details": details}
