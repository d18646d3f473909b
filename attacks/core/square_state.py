"""What the Square attack knows of the examples that are not broken yet."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class SquareState:
    """The search of the n examples that are not broken yet.

    Attributes:
        rows: their places in the batch.
        x0: clean images (n, C, H, W).
        label: (n,).
        keys: of their random draws, (n,).
        delta: accepted perturbations (n, C, H, W).
        margin: margin loss there, (n,).
        nonfinite_guard: NaN or infinite once a margin was, (n,): a sum instead of a check per query.
        page: uniform draws of the queries of this page, (n, PAGE, 5 + C).
        done: broken beyond rounding in the last block that was asked ahead, bool (n,).
        gains: queries that gained since it was last read, ().
    """

    rows: Tensor
    x0: Tensor
    label: Tensor
    keys: Tensor
    delta: Tensor
    margin: Tensor
    nonfinite_guard: Tensor
    page: Tensor = field(default_factory=lambda: torch.empty(0))
    done: Tensor = field(default_factory=lambda: torch.empty(0))
    gains: Tensor = field(default_factory=lambda: torch.zeros(()))

    def __len__(self) -> int:
        return len(self.rows)

    def gained(self, better: Tensor) -> None:
        """Count the queries that gained, bool of any shape."""
        self.gains = self.gains + better.sum()

    def keep(self, places: Tensor) -> None:
        """Drop all examples but those at some places (k,) among the n."""
        for name in ("rows", "x0", "label", "keys", "delta", "margin", "nonfinite_guard", "page"):
            setattr(self, name, getattr(self, name)[places])
