"""What the readers of foreign layouts share: channels first, and a fixed order."""

from __future__ import annotations

import numpy as np


def channels_first(images: np.ndarray) -> np.ndarray:
    """Return images (N, H, W, C) as (N, C, H, W), contiguous."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def shuffled(total: int, n: int | None) -> np.ndarray:
    """Return the first n of a fixed permutation: files sorted by class would give a limit one class only."""
    return np.random.RandomState(0).permutation(total)[:n]
