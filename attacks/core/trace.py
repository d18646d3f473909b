"""What an attack returns beside the adversarial images: its trace, and the columns that several attacks share."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from bench.core.records import Column

Trace = dict[str, Tensor | list[str]]  # name to one value per example; some attacks add values per step

ZERO_GRADIENT: Final = Column(
    "Steps that had no gradient to follow.", kind="count", aggregate="sum", direction="none", shown=False
)
