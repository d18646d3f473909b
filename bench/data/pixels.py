"""Pixels as stored (uint8 or float) to pixels as networks take them."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as float32 in [0, 1]: uint8 is divided by 255, floats stay."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()
