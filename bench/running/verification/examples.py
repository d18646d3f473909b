"""The stored adversarial examples of an evaluation, scored anew, against what its table says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from torch import nn

from bench.core.records import Role, expand_columns
from bench.running.rescoring import ROUNDING, rescore
from bench.running.verification.findings import Verification
from bench.running.verification.links import check_images
from bench.store.plan_record import EvaluationRecord
from bench.store.records import CellRecord
from bench.store.store import Store

NO_ATTACK: Final = "clean"  # the stage that breaks an image without one
DISTANCE_TOLERANCE: Final = 1e-4  # relative; tables hold float32
_BESIDE: Final[tuple[Role, ...]] = ("distance", "broken_by")


@dataclass(frozen=True)
class AttackColumns:
    """The columns of one attack at one budget.

    Attributes:
        robust: name of the flags.
        distance: name of the distances, "" without them.
        broken_by: name of the stages, "" without them.
        images: name of the adversarial images, which no table holds; "" without them.
        norm: of the ball.
        eps: its radius.
    """

    robust: str
    distance: str
    broken_by: str
    images: str
    norm: str
    eps: float

    def broken(self, table: pd.DataFrame) -> list[int]:
        """Return the places of the images that needed an adversarial example to break.

        Args:
            table: of the evaluation.
        """
        hit = ~table[self.robust].astype(bool)
        if self.broken_by:
            hit &= table[self.broken_by].astype(str) != NO_ATTACK
        return [int(index) for index in table.loc[hit, "index"]]


@dataclass(frozen=True)
class Example:
    """An adversarial example that holds against a run's network.

    Attributes:
        norm: of the perturbation.
        index: place of the image in the test set.
        distance: size of the perturbation.
    """

    norm: str
    index: int
    distance: float


def attacks_of(planned: EvaluationRecord, table: pd.DataFrame) -> list[AttackColumns]:
    """Return the attacks of an evaluation, one per budget, the smallest budget first.

    Args:
        planned: the evaluation.
        table: its table.
    """
    columns = expand_columns(planned.columns, planned.arguments)
    found = []
    for name, column in columns.items():
        if column.role != "robust" or name not in table or not {"norm", "eps"} <= column.params.keys():
            continue
        beside: dict[Role, str] = {c.role: n for n, c in columns.items() if c.params == column.params}
        distance, stages = (n if (n := beside.get(role, "")) in table else "" for role in _BESIDE)
        norm, eps = str(column.params["norm"]), float(column.params["eps"])
        found.append(AttackColumns(name, distance, stages, beside.get("adversarial", ""), norm, eps))
    return sorted(found, key=lambda attack: attack.eps)


def _are_stored(attack: AttackColumns, record: CellRecord) -> bool:
    kept = record.spec.get("pictures")
    return bool(attack.images) and (kept == "all" or (isinstance(kept, list) and attack.images in kept))


def check_examples(
    store: Store,
    planned: EvaluationRecord,
    record: CellRecord,
    model: nn.Module,
    where: str,
    data: np.ndarray | None,
    found: Verification,
) -> list[Example]:
    """Score the stored adversarial examples of a cell anew, and compare what its table says of them.

    Args:
        store: an open store.
        planned: the evaluation.
        record: its cell, done.
        model: the row's network, on the CPU.
        where: the cell, for findings.
        data: the test images (N, C, H, W) in [0, 1]; None: they are not at hand.
        found: what does not hold is noted here.

    Returns:
        The examples that hold.
    """
    table, images = store.table(record.id), store.images(record.id)
    attacks = [attack for attack in attacks_of(planned, table) if _are_stored(attack, record)]
    stored = images.get("index", np.zeros(0, np.int64)).tolist()
    if not attacks:
        if stored:
            found.fail(where, "expected no stored images, got some")
        return []
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(stored):
        rows.setdefault(int(index), []).append(row)
    expected: dict[int, list[AttackColumns]] = {}
    for attack in attacks:
        for index in attack.broken(table):
            expected.setdefault(index, []).append(attack)
    _check_presence(rows, expected, store.lacks_images(record.id), where, found)
    if stored:
        check_images(images["clean"], dict(enumerate(stored)), data, where, found)
    holding: list[Example] = []
    for attack in attacks:
        pairs = [
            (index, row)
            for index, of_image in expected.items()
            for one, row in zip(of_image, rows.get(index, ()), strict=False)
            if one is attack
        ]
        if pairs:
            holding += _rescore(pairs, attack, table, images, model, where, found)
    return holding


def _check_presence(
    rows: dict[int, list[int]],
    expected: dict[int, list[AttackColumns]],
    lacks: bool,
    where: str,
    found: Verification,
) -> None:
    """Check that each broken image has its examples and no other image has one."""
    for index in sorted(rows.keys() | expected.keys()):
        there, due = len(rows.get(index, ())), len(expected.get(index, ()))
        if there == 0 and lacks:
            found.left_out += due
        elif there != due:
            found.fail(where, f"expected {due} stored adversarial examples, as its table says, got {there}", index)


def _rescore(
    pairs: list[tuple[int, int]],
    attack: AttackColumns,
    table: pd.DataFrame,
    images: dict[str, np.ndarray],
    model: nn.Module,
    where: str,
    found: Verification,
) -> Iterator[Example]:
    """Score the examples of one attack; `pairs` are places in the test set and rows of the stored images.

    Yields:
        The examples that hold.
    """
    by_index = table.set_index("index")
    places, rows = [index for index, _ in pairs], [row for _, row in pairs]
    labels = by_index.loc[places, "label"].to_numpy(np.int64)
    clean, adversarial = images["clean"][rows], images["adversarial"][rows]
    if clean.shape != adversarial.shape or clean.ndim != 4:
        found.fail(where, f"expected images (n, C, H, W), got {clean.shape} and {adversarial.shape}")
        return
    scored = rescore(model, clean, labels, adversarial, eps=attack.eps, norm=attack.norm)
    found.examples += len(pairs)
    said = by_index.loc[places, attack.distance].to_numpy(np.float64) if attack.distance else scored.distance
    predicted = images["prediction"][rows] if "prediction" in images else scored.prediction
    for i, index in enumerate(places):
        if scored.close[i]:
            found.close += 1
        elif scored.reasons[i]:
            found.fail(
                where,
                f"expected an adversarial example within {attack.norm} {attack.eps:g}, got {scored.reasons[i]}",
                index,
            )
        elif not abs(said[i] - scored.distance[i]) <= DISTANCE_TOLERANCE * max(abs(scored.distance[i]), 1e-3):
            found.fail(
                where, f"expected distance {scored.distance[i]:.6g}, got {said[i]:.6g} in {attack.distance}", index
            )
        elif predicted[i] != scored.prediction[i] and scored.lead[i] > ROUNDING:
            found.fail(
                where, f"expected the class {scored.prediction[i]} that the model gives, got {predicted[i]}", index
            )
        else:
            yield Example(attack.norm, index, float(scored.distance[i]))
