"""What the readers of foreign layouts share: channels first, a fixed order, and the scale of uint8 pixels."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.core.errors import BenchError, UsageError

FEW_LEVELS: Final = 16  # uint8 images whose largest value is this or less are on another scale than 0 to 255


def channels_first(images: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, C) as (N, C, H, W), contiguous."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def shuffled(total: int, n: int | None) -> np.ndarray:
    """Return the first n of a fixed permutation: files sorted by class would give a limit one class only."""
    return np.random.RandomState(0).permutation(total)[:n]


def check_levels(where: str, images: np.ndarray, error: type[BenchError] = UsageError) -> None:
    """Refuse uint8 images that are no levels from 0 to 255: divided by 255 they would be almost black.

    Args:
        where: what an error message begins with.
        images: uint8, of any shape.
        error: what is raised.

    Raises:
        BenchError: `error`; the largest value is between 1 and 16, as in images on a scale from 0 to 1 or to 16.
    """
    largest = int(images.max()) if images.size else 0
    if 0 < largest <= FEW_LEVELS:
        raise error(
            f"{where}: expected uint8 pixels from 0 to 255, got {largest} as the largest: they are on another scale. "
            f"Pass floats in [0, 1], images / {largest}."
        )


def stratified(labels: np.ndarray, n: int) -> np.ndarray:
    """Mark n examples, each class's share rounded by largest remainders, its first ones taken."""
    counts = np.bincount(labels)
    exact = counts * n / len(labels)
    share = np.floor(exact).astype(int)
    share[np.argsort(share - exact, kind="stable")[: n - share.sum()]] += 1
    marked = np.zeros(len(labels), bool)
    for label, k in enumerate(share):
        marked[np.flatnonzero(labels == label)[:k]] = True
    return marked
