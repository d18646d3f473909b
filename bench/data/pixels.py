"""Pixels as stored (uint8 or float) to pixels as networks take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from bench.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

FEW_LEVELS: Final = 16  # uint8 images whose largest value is this or less are on another scale than 0 to 255


def to_unit(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as float32 in [0, 1]: uint8 is divided by 255, floats stay."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()


def check_levels(where: str, images: np.ndarray) -> None:
    """Refuse uint8 images that are no levels from 0 to 255: divided by 255 they would be almost black.

    Args:
        where: what an error message begins with.
        images: uint8, of any shape.

    Raises:
        UsageError: the largest value is between 1 and 16, as in images that are scaled to 0 and 1, or to 0 to 16.
    """
    largest = int(images.max()) if images.size else 0
    if 0 < largest <= FEW_LEVELS:
        raise UsageError(
            f"{where}: expected uint8 pixels from 0 to 255, got {largest} as the largest: they are on another scale. "
            f"Pass floats in [0, 1], images / {largest}."
        )
