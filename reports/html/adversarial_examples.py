"""The adversarial examples in a defense's section: clean image, perturbation, result, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.reports.board.model import Board, Row
from bench.reports.board.pictures import StoredImages
from bench.reports.formatting import Value
from bench.reports.html.sprite import Sprite, Tile

BUDGET = 160  # adversarial examples of one kind on the whole page
MOST = 6  # of one kind in one section
CHANNELS = (1, 3)  # that can be shown


@dataclass(frozen=True)
class Strip:
    """One adversarial example: three pictures and what happened.

    Attributes:
        index: of the image.
        clean: place of the image.
        change: of the perturbation, grey where there is none.
        adversarial: of the result.
        label: its class.
        prediction: the class that the network then gives, "" if it was not stored.
        distance: size of the attack's perturbation.
        breaks: size of the smallest change that is known to break it.
        broken_by: the stage of the attack, "" if it was not stored.
        gain: how much the perturbation is amplified.
    """

    index: int
    clean: Tile
    change: Tile
    adversarial: Tile
    label: str
    prediction: str
    distance: Value
    breaks: Value
    broken_by: str
    gain: str


@dataclass(frozen=True)
class Gallery:
    """Adversarial examples of one run: those that the smallest changes break, and those that need the largest.

    Attributes:
        seed: of the run.
        norm: in which the changes are measured.
        bisected: whether smaller changes were searched for on the way to the attack's point.
        first: the smallest, ascending.
        last: the largest, descending.
    """

    seed: int
    norm: str
    bisected: bool
    first: tuple[Strip, ...]
    last: tuple[Strip, ...]


def gallery(board: Board, row: Row, table: pd.DataFrame, sprite: Sprite) -> Gallery | None:
    """Return the adversarial examples of a defense's first run that has any; fewer per defense on a long board.

    Args:
        board: what was measured.
        row: the defense.
        table: its per-example table.
        sprite: the pictures are added to it.
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
        run = (row.defense, seed)
        strips = [tuple(_strip(board, images, stored, i, run, sprite) for i in group) for group in (first, last)]
        return Gallery(seed, board.threat.norm if board.threat else "", stored.bisected, *strips)
    return None


def _strip(
    board: Board, images: pd.DataFrame, stored: StoredImages, i: int, run: tuple[str, int], sprite: Sprite
) -> Strip:
    index, classes = int(stored.index[i]), board.plan.data.classes
    change, gain = sprite.change(("change", *run, index), stored.clean[i], stored.adversarial[i])
    by = board.beside(board.ranking_column, "broken_by")
    known = index in images.index
    return Strip(
        index=index,
        clean=sprite.image(("clean", index), stored.clean[i]),
        change=change,
        adversarial=sprite.image(("adversarial", *run, index), stored.adversarial[i]),
        label=class_name(classes, images.at[index, "label"]) if known else "?",
        prediction="" if stored.prediction is None else class_name(classes, stored.prediction[i]),
        distance=Value(float(stored.distance[i]), "number"),
        breaks=Value(float(stored.breaks[i]), "number"),
        broken_by=str(images.at[index, by]) if by in images and known else "",
        gain=gain,
    )


def class_name(classes: Sequence[str], k: int) -> str:
    """Return the name of a class, its number where there is none.

    Args:
        classes: names by number.
        k: the class.
    """
    return classes[int(k)] if 0 <= int(k) < len(classes) else str(int(k))
