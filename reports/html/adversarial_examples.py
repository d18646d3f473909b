"""The adversarial examples in a defense's section: clean image, perturbation, result, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.reports.board.model import Board, Row, StoredImages
from bench.reports.formatting import Value
from bench.reports.html.png import data_uri

BUDGET = 160  # adversarial examples of one kind on the whole page
MOST = 6  # of one kind in one section
CHANNELS = (1, 3)  # that can be shown


@dataclass(frozen=True)
class Strip:
    """One adversarial example: three PNGs and what happened.

    Attributes:
        index: of the image.
        clean: data URI of the image.
        change: of the perturbation, grey where there is none.
        adversarial: of the result.
        label: its class.
        prediction: the class that the network then gives, "" if it was not stored.
        distance: size of the perturbation.
        broken_by: the stage of the attack, "" if it was not stored.
        gain: how much the perturbation is amplified.
    """

    index: int
    clean: str
    change: str
    adversarial: str
    label: str
    prediction: str
    distance: Value
    broken_by: str
    gain: str


@dataclass(frozen=True)
class Gallery:
    """Adversarial examples of one run: those that needed the smallest changes, and those that needed the largest.

    Attributes:
        seed: of the run.
        norm: in which the changes are measured.
        first: the smallest, ascending.
        last: the largest, descending.
    """

    seed: int
    norm: str
    first: tuple[Strip, ...]
    last: tuple[Strip, ...]


def gallery(board: Board, row: Row, table: pd.DataFrame) -> Gallery | None:
    """Return the adversarial examples of a defense's first run that has any; fewer per defense on a long board.

    Args:
        board: what was measured.
        row: the defense.
        table: its per-example table.
    """
    most = max(2, min(MOST, BUDGET // (2 * max(1, len(board.rows)))))
    for seed in row.seeds:
        stored = board.adversarial.get((row.defense, seed))
        if stored is None or stored.clean.shape[1] not in CHANNELS:
            continue
        m = len(stored.index)
        half = min(most, -(-m // 2))
        first, last = range(half), reversed(range(max(half, m - half), m))
        images = table[table["seed"] == seed].set_index("index")
        strips = [tuple(_strip(board, images, stored, i) for i in group) for group in (first, last)]
        return Gallery(seed, board.threat.norm if board.threat else "", *strips)
    return None


def _strip(board: Board, images: pd.DataFrame, stored: StoredImages, i: int) -> Strip:
    index = int(stored.index[i])
    clean, adversarial = (np.asarray(a[i], dtype="float64") for a in (stored.clean, stored.adversarial))
    delta = adversarial - clean
    size = float(np.abs(delta).max())
    gain = 0.5 / size if size > 0 else 1.0
    classes = board.plan.data.classes
    by = board.beside(board.ranking_column, "broken_by")
    known = index in images.index
    return Strip(
        index=index,
        clean=data_uri(clean),
        change=data_uri(0.5 + gain * delta),
        adversarial=data_uri(adversarial),
        label=_class(classes, images.at[index, "label"]) if known else "?",
        prediction="" if stored.prediction is None else _class(classes, stored.prediction[i]),
        distance=Value(float(stored.distance[i]), "number"),
        broken_by=str(images.at[index, by]) if by in images and known else "",
        gain=f"{gain:.3g}",
    )


def _class(classes: Sequence[str], k: int) -> str:
    return classes[int(k)] if 0 <= int(k) < len(classes) else str(int(k))
