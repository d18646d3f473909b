"""Measure a batch in parts that fit into memory, and join the columns of the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def micro_batch_size(x: Tensor) -> int:
    """Return how many images' second-order graphs to hold at once.

    ResNet-18 keeps about 30 MB per image of 3×32×32; small networks on small images want large batches.

    Args:
        x: images (B, C, H, W); their size and device count.
    """
    size = max(32, min(256, 100_000 // x[0].numel()))
    return 4 * size if x.is_cuda else size


def join_columns(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the columns of consecutive parts of a batch, joined in order.

    Args:
        parts: name → (B_i, …) of every part; all have the same names.
    """
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
