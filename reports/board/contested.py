"""Images that tell the ranked defenses apart, and which of their adversarial examples the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.reports.board.columns import BoardColumn
from bench.reports.board.run_tables import RunTables, numbers

LISTED: Final = 1_000  # images at most, the most contested ones
ROOM: Final = 1_200_000  # bytes of the pixels of all pictures together
THUMBNAIL: Final = 32  # longest side of a picture in the page, in pixels


@dataclass(frozen=True)
class Contested:
    """Images on which ranked defenses differ under the ranking attack, the most contested first.

    Attributes:
        index: (m,), of the images.
        label: (m,), their classes.
        seeds: defense to the number of its models.
        right: defense to how many of its models are right on each, (m,).
        lost_with: defense to the first seed that is wrong on each, (m,); -1 where none is.
        pictured: how many of the first images have pictures.
        total: how many images differ, also those that are not listed.
    """

    index: np.ndarray
    label: np.ndarray
    seeds: Mapping[str, int]
    right: Mapping[str, np.ndarray]
    lost_with: Mapping[str, np.ndarray]
    pictured: int
    total: int

    def wanted(self, defense: str, seed: int) -> np.ndarray:
        """Return the images of which the page shows an adversarial example of a model.

        Args:
            defense: of the model.
            seed: of its training.
        """
        if defense not in self.lost_with:
            return np.zeros(0, dtype=np.int64)
        return self.index[: self.pictured][self.lost_with[defense][: self.pictured] == seed]


def contested(
    groups: Mapping[str, list[RunTables]], ranked: list[str], ranking: BoardColumn | None, shape: tuple[int, ...]
) -> Contested | None:
    """Return the images that tell the ranked defenses apart; None where there are no two, or no such image.

    An image is the more contested, the more pairs it tells apart. Pictures are shown of the first ones, as many as
    there is room for.

    Args:
        groups: defense to its runs.
        ranked: the defenses with a place, which were evaluated on the same images.
        ranking: the column that ranks; None: nothing does.
        shape: of an image, (C, H, W).
    """
    if ranking is None or len(ranked) < 2:
        return None
    runs = {name: [run for run in groups[name] if ranking.evaluation in run.tables] for name in ranked}
    flags = {
        name: np.array([numbers(run.tables[ranking.evaluation], ranking.example_column) for run in mine]) == 1
        for name, mine in runs.items()
    }
    first = runs[ranked[0]][0].tables[ranking.evaluation]
    shares = np.array([flags[name].mean(0) for name in ranked])
    apart = np.sum([(shares != mine).sum(0) for mine in shares], axis=0)
    order = np.argsort(-apart, kind="stable")[: min(LISTED, int((apart > 0).sum()))]
    if not len(order):
        return None
    return Contested(
        index=first.index[order],
        label=first.label[order],
        seeds={name: len(runs[name]) for name in ranked},
        right={name: flags[name].sum(0)[order] for name in ranked},
        lost_with={name: _first_lost(runs[name], flags[name][:, order]) for name in ranked},
        total=int((apart > 0).sum()),
        pictured=_pictured(np.array([~flags[name].all(0)[order] for name in ranked]), shape),
    )


def _first_lost(runs: list[RunTables], flags: np.ndarray) -> np.ndarray:
    """Return the seed of the first model that is wrong on each image, -1 where none is, (m,)."""
    seeds = np.array([run.seed for run in runs])
    return np.where(flags.all(0), -1, seeds[np.argmin(flags, axis=0)])


def _pictured(lost: np.ndarray, shape: tuple[int, ...]) -> int:
    """Return of how many of the first images there is room for pictures: one clean, one per defense that loses it.

    Args:
        lost: bool (defenses, m).
        shape: of an image, (C, H, W).
    """
    step = -(-max(shape[1:]) // THUMBNAIL)
    size = shape[0] * (shape[1] // step) * (shape[2] // step)
    return int(np.searchsorted(np.cumsum(1 + lost.sum(0)) * size, ROOM, side="right"))
