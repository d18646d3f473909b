"""Transfer between the rows of a board: each model is tried on the adversarial examples found against the others.

The examples are stored already, so this costs one pass each. It comes last, when every row has been attacked, and
is folded with AutoAttack's own verdict into the best known robust accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.core.records import Column
from bench.data.pixels import to_unit
from bench.evaluations.transfer import SOURCE, describe_transfer, transfer_columns
from bench.measuring.judge import full_precision
from bench.measuring.model_contract import as_found
from bench.measuring.passes import counted
from bench.running import cells, sources
from bench.running.plan import Plan, PlannedEvaluation, Run
from bench.store.compact import LEFT_OUT
from bench.store.plan_record import EvaluationRecord
from bench.store.status import TRANSFER as KEY
from bench.store.store import Store


@dataclass(frozen=True)
class TransferTarget:
    """One row to be tried: its weights, its own attack's cell, and the cells of the others' examples by row."""

    row: Run
    number: int
    weights: str
    attacked: str
    others: dict[str, str]


def measurement(plan: Plan) -> PlannedEvaluation | None:
    """Return the plan's AutoAttack whose adversarial examples are stored, None if there is none to transfer."""
    name = f"autoattack_l2_{plan.suite.primary_eps:g}_adversarial"
    defenses = {row.defense for row in plan.rows}
    found = [m for m in plan.measurements if m.evaluation.name == "autoattack_l2" and m.keeps(name)]
    return found[0] if found and len(defenses) > 1 else None


def describe(plan: Plan) -> dict[str, EvaluationRecord]:
    """Return the plan's entry of the transfer, in the form of the other evaluations' entries; {} without one."""
    source = measurement(plan)
    if source is None:
        return {}
    entry = EvaluationRecord(
        evaluation=KEY,
        arguments={"eps": [plan.suite.primary_eps]},
        limit=source.entry.limit,
        n=len(source.split),
        source=SOURCE,
        version=1,
        description=transfer_columns.__doc__ or "",
        columns=dict(declared_columns(plan)),
    )
    return {KEY: entry}


def declared_columns(plan: Plan) -> Mapping[str, Column]:
    """Return what the columns of a row's transfer are, by pattern of the name."""
    name = f"best_known_l2_{plan.suite.primary_eps:g}"
    return describe_transfer("l2") | {
        f"{name}_robust": Column(
            "Right on the image, under AutoAttack, and on every adversarial example found against the other rows.",
            kind="flag",
            board=name,
            aggregate="fraction",
            direction="higher",
            formula="autoattack robust ∧ transfer robust",
            source=SOURCE,
            role="best_known",
            params={"norm": "l2", "eps": plan.suite.primary_eps},
            interval="wilson",
        )
    }


def targets(plan: Plan, store: Store) -> Iterator[TransferTarget]:
    """Yield every row that has been attacked, with the rows of other defenses that have been attacked too."""
    source = measurement(plan)
    if source is None:
        return
    attacked: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(plan.rows):
        trained = store.cell(row.cell.id)
        if trained is None or trained.status != "done":
            continue
        weights = str(trained.info["weights"])
        cell = source.cell(weights, row).id
        record = store.cell(cell)
        if record and record.status == "done":
            attacked[number] = (weights, cell)
    for number, (weights, cell) in attacked.items():
        row = plan.rows[number]
        others = {plan.rows[i].label: c for i, (_, c) in attacked.items() if plan.rows[i].defense != row.defense}
        yield TransferTarget(row, number, weights, cell, others)


def cell_of(plan: Plan, target: TransferTarget) -> cells.EvaluationCell:
    """Return the cell of a row's transfer: it depends on every example that is tried."""
    source = measurement(plan)
    assert source is not None  # a target exists only with one
    return cells.EvaluationCell(
        {
            "model": {**target.row.cell.spec, "weights": target.weights},
            "evaluation": KEY,
            "version": 1,
            "arguments": {"eps": plan.suite.primary_eps},
            "data": source.split.fingerprint,
            "attacked": target.attacked,
            "others": target.others,
            "sources": sources.sources([evaluate, transfer_columns]),
            "runtime": cells.runtime(plan.device.type, "fp32"),
        }
    )


def left_out(plan: Plan, store: Store, target: TransferTarget) -> str:
    """Return what of a row's transfer was left out when the folder was packed; "" if all is there."""
    record = store.cell(target.row.cell.id)
    path = plan.out / "weights" / f"{target.weights}.safetensors"
    if record and record.info.get(LEFT_OUT) and not path.is_file():
        return "its weights"
    for label, cell in target.others.items():
        if any(LEFT_OUT in info for info in store.chunk_info(cell).values()):
            return f"the adversarial examples of {label}"
    return ""


def evaluate(
    plan: Plan, store: Store, target: TransferTarget, model: torch.nn.Module
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Try the others' examples on a model; return its table and its counts.

    Args:
        plan: the plan that the target belongs to.
        store: where the examples are.
        target: the row.
        model: its network in eval mode on the plan's device.
    """
    source = measurement(plan)
    assert source is not None
    eps, n, started = plan.suite.primary_eps, len(source.split), time.monotonic()
    points = {label: _points(store, cell) for label, cell in target.others.items()}
    parts = []
    with counted(model) as passes:
        for start in range(0, n, 250):
            part = slice(start, min(n, start + 250))
            x = to_unit(torch.tensor(source.split.images[part])).to(plan.device)
            y = torch.tensor(source.split.labels[part]).to(plan.device)
            candidates = {label: _placed(x, part, found) for label, found in points.items()}
            with as_found(model), full_precision(plan.device):
                columns = transfer_columns(model, x, y, candidates=candidates, eps=eps, norm="l2")
            parts.append({k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in columns.items()})
    joined = {k: np.concatenate([np.asarray(p[k]) for p in parts]) for k in parts[0]}
    table = pd.DataFrame({"index": np.arange(n), "label": source.split.labels, **joined})
    own = store.table(target.attacked).set_index("index")[f"autoattack_l2_{eps:g}_robust"]
    table[f"best_known_l2_{eps:g}_robust"] = table[f"{KEY}_{eps:g}_robust"] & own.reindex(table["index"]).to_numpy()
    info = {"forwards": passes.forwards, "backwards": 0, "images": n, "seconds": time.monotonic() - started}
    return table, info


def _points(store: Store, cell: str) -> dict[int, np.ndarray]:
    """Return index to adversarial example of an attacked row."""
    pictures = store.images(cell)
    return dict(zip(pictures["index"].tolist(), pictures["adversarial"], strict=True)) if pictures else {}


def _placed(x: torch.Tensor, part: slice, found: dict[int, np.ndarray]) -> torch.Tensor:
    """Return the batch with the images replaced for which an adversarial example was found."""
    points = x.clone()
    for row, index in enumerate(range(part.start, part.stop)):
        if index in found:
            points[row] = torch.from_numpy(found[index]).to(x)
    return points
