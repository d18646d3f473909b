"""What is cheap to compute again: verdicts on other rows' adversarial examples, and on clean images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.records import Role, ThreatModel
from bench.core.torch_state import full_precision, known_state
from bench.data.split import Split
from bench.measuring.inputs import CellInputs, Values, column_values, image_values
from bench.measuring.judge import predict
from bench.measuring.model_contract import checked_eval
from bench.running.rescoring import BATCH, ROUNDING
from bench.running.verification.findings import Verification
from bench.store.plan_record import EvaluationRecord
from bench.store.records import CellRecord
from bench.store.serialise import column_facts
from bench.store.store import Store

TOLERANCE = 1e-4  # relative, of numbers


@dataclass(frozen=True)
class ReaderContext:
    """What an evaluation that reads other rows is computed with.

    Attributes:
        threat: the suite's; None: there is none.
        data: the test images (N, C, H, W) in [0, 1]; None: they are not at hand.
    """

    threat: ThreatModel | None
    data: np.ndarray | None


def is_reader(planned: EvaluationRecord) -> bool:
    """Return whether an evaluation is cheap to compute again: it tries points that other cells have stored.

    Attacks that search for the nearest point have columns of the same role, and read nothing; `trust` reads such
    points, and attacks on its own.

    Args:
        planned: the evaluation.
    """
    return planned.reads_others or (
        bool(planned.needs) and any(column.role == "breaking" for column in planned.columns.values())
    )


def check_readers(
    store: Store,
    planned: EvaluationRecord,
    record: CellRecord,
    model: nn.Module,
    where: str,
    context: ReaderContext,
    found: Verification,
) -> None:
    """Compute an evaluation that reads stored adversarial examples again.

    It is computed on all images of the test set, and where that is not at hand on those of which an example is stored.

    Args:
        store: an open store.
        planned: the evaluation.
        record: its cell, done.
        model: the row's network, on the CPU.
        where: the cell, for findings.
        context: the suite's threat, and the test images.
        found: what does not hold is noted here.
    """
    read = record.spec.get("inputs", {})
    cells, mine = read.get("others adversarial", {}), read.get("own adversarial")
    images_of = [*cells.values(), *([mine] if mine else [])]
    threat = context.threat
    if threat is None or any(map(store.lacks_images, images_of)):
        found.notes.append(f"{where}: not computed again: adversarial examples that it reads were left out")
        return
    others: dict[str, Values] = {label: image_values(store.images(cell)) for label, cell in cells.items()}
    clean = {
        int(index): image
        for cell in images_of
        if (images := store.images(cell))
        for index, image in zip(images["index"].tolist(), images["clean"], strict=True)
    }
    if context.data is not None:
        clean = dict(enumerate(context.data))
    own: dict[Role, Values] = {}
    if flags := read.get("own robust"):
        own["robust"] = _robust_flags(store, str(flags), threat)
    if mine:
        own["adversarial"] = image_values(store.images(mine))
    table = store.table(record.id).set_index("index")
    places = sorted(index for index in clean if index in table.index)
    inputs = CellInputs(own, {"adversarial": others})
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        x = torch.tensor(np.stack([clean[index] for index in part]))
        y = torch.tensor(table.loc[part, "label"].to_numpy(np.int64))
        batch = inputs.batch(part, x)
        with known_state(), checked_eval(model), full_precision(x.device):
            columns = registry.evaluations.get(planned.evaluation).function(
                model, x, y, inputs=batch, seed=planned.seed, **planned.arguments
            )
            points = {**batch.others["adversarial"], **({"": batch.own["adversarial"]} if mine else {})}
            near = _near(model, points)
        _compare(columns, table.loc[part], near, where, found)


def _robust_flags(store: Store, cell: str, threat: ThreatModel) -> Values:
    """Return place to flag of a cell's robust column at the threat."""
    arrow = store.arrow_table(cell)
    if arrow is None:
        raise BenchError(f"cell {cell[:12]}: expected a table of robust flags, got none. The store is incomplete.")
    flags = [n for n, c in column_facts(arrow).items() if c.role == "robust" and threat.matches(c)]
    return column_values(store.table(cell), flags[0])


@torch.no_grad()
def _near(model: nn.Module, candidates: Mapping[str, Tensor]) -> np.ndarray:
    """Return for which images some candidate's decision is within rounding, bool (B,)."""
    close: list[Tensor] = []
    for points in candidates.values():
        logits = model(points.float()).float()
        first, second = logits.topk(2, dim=1).values.T
        close.append((first - second) <= ROUNDING * logits.abs().amax(1))
    return torch.stack(close).any(0).numpy() if close else np.zeros(0, bool)


def _compare(
    columns: Mapping[str, Any], table: pd.DataFrame, near: np.ndarray, where: str, found: Verification
) -> None:
    """Compare the columns of some images with their stored rows."""
    found.close += int(near.sum())
    for name, values in columns.items():
        if name not in table:
            found.fail(where, f"expected a column {name}, got none")
            continue
        now = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
        before = table[name].to_numpy()
        if now.dtype.kind == "f":
            same = np.isclose(now, before.astype(np.float64), rtol=TOLERANCE, atol=1e-6, equal_nan=True)
        else:
            same = now.astype(str) == before.astype(str)
        for row in np.flatnonzero(~same & ~near):
            found.fail(where, f"expected {name} = {now[row]}, got {before[row]}", int(table.index[row]))


def check_clean(
    table: pd.DataFrame, columns: list[str], model: nn.Module, test: Split, where: str, found: Verification
) -> None:
    """Classify the clean images again, and compare the flags.

    Args:
        table: of the evaluation.
        columns: names of its flags of being right without an attack.
        model: the row's network, on the CPU.
        test: the test images.
        where: the cell, for findings.
        found: what does not hold is noted here.
    """
    pixels, places = test.pixels(), table["index"].to_numpy()
    if len(places) and places.max() >= len(pixels):
        found.fail(where, f"expected images of the data set, which has {len(pixels)}, got image {places.max()}")
        return
    right, near = np.zeros(len(places), bool), np.zeros(len(places), bool)
    with known_state(), checked_eval(model), full_precision(torch.device("cpu")):
        for start in range(0, len(places), BATCH):
            part = slice(start, start + BATCH)
            x = torch.tensor(np.ascontiguousarray(pixels[places[part]], np.float32))
            right[part] = predict(model, x).numpy() == test.labels[places[part]]
            near[part] = _near(model, {"clean": x})
    for name in columns:
        for row in np.flatnonzero((table[name].to_numpy(bool) != right) & ~near):
            found.fail(where, f"expected {name} = {right[row]}, got {bool(table[name].iloc[row])}", int(places[row]))
