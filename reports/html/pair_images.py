"""The images that one defense keeps and another loses, as the data that the page's script shows them from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from bench.reports import formatting
from bench.reports.board.contested import Contested
from bench.reports.board.model import Board
from bench.reports.figures.figure import Tables
from bench.reports.html.adversarial_examples import CHANNELS, class_name
from bench.reports.html.sprite import Sprite

DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"  # a count of seeds is one of them


@dataclass(frozen=True)
class PairImages:
    """Everything that the page shows of the images of pairs.

    Attributes:
        defenses: the ranked ones, best first.
        images: how many images tell some pair apart.
        listed: how many of them the page has.
        pictured: how many of them have pictures.
        data: for the script, plain data.
    """

    defenses: tuple[str, ...]
    images: int
    listed: int
    pictured: int
    data: dict[str, object]


def pair_images(board: Board, tables: Tables, sprite: Sprite) -> PairImages | None:
    """Return the images that tell the ranked defenses apart, with what each loser made of them; None without any.

    Args:
        board: what was measured.
        tables: defense to its per-example table.
        sprite: the pictures are added to it.
    """
    found = board.contested
    if found is None:
        return None
    names = [row.defense for row in board.rows if row.defense in found.right]
    anchors = {row.defense: row.anchor for row in board.rows}
    labels = [class_name(board.plan.data.classes, label) for label in found.label]
    return PairImages(
        defenses=tuple(names),
        images=found.total,
        listed=len(found.index),
        pictured=found.pictured,
        data={
            "defenses": [
                {
                    "name": name,
                    "anchor": anchors[name],
                    "seeds": found.seeds[name],
                    "right": "".join(DIGITS[min(k, len(DIGITS) - 1)] for k in found.right[name].tolist()),
                    "lost": _lost(board, found, tables[name], name, sprite),
                }
                for name in names
            ],
            "index": found.index.tolist(),
            "label": labels,
            "clean": {
                str(place): [tile.x, tile.y]
                for place, index in enumerate(found.index.tolist())
                if ("clean", index) in sprite.numbers
                for tile in [sprite.place(("clean", index))]
            },
            "norm": formatting.norm_symbol(board.threat.norm if board.threat else ""),
        },
    )


def _lost(board: Board, found: Contested, table: pd.DataFrame, name: str, sprite: Sprite) -> dict[str, list[object]]:
    """Return place in the list to (seed, stage, class given, change, place and amplification of its picture)."""
    by, known = board.beside(board.ranking_column, "broken_by"), dict[str, list[object]]()
    kept = table["index"].isin(found.index) if by in table else None
    runs = () if kept is None else table.loc[kept, ["seed", "index", by]].groupby("seed")
    stages = {seed: dict(zip(part["index"], part[by], strict=True)) for seed, part in runs}
    places = {index: place for place, index in enumerate(found.index.tolist())}
    for index, seed in zip(found.index.tolist(), found.lost_with[name].tolist(), strict=True):
        if seed >= 0:
            known[str(places[index])] = [seed, str(stages.get(seed, {}).get(index, ""))]
    for (defense, seed), stored in board.adversarial.items():
        if defense != name or stored.clean.shape[1] not in CHANNELS:
            continue
        wanted = set(found.wanted(name, seed).tolist())
        for i, index in enumerate(stored.index.tolist()):
            if index in wanted:
                sprite.image(("clean", index), stored.clean[i])
                tile, gain = sprite.change(("change", name, seed, index), stored.clean[i], stored.adversarial[i])
                given = "" if stored.prediction is None else class_name(board.plan.data.classes, stored.prediction[i])
                size = formatting.number(float(stored.breaks[i]))
                known[str(places[index])] += [given, size, [tile.x, tile.y], gain]
    return known
