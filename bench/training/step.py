"""One training step, operation by operation.

A step never waits for the device: what the log of an epoch needs is summed there.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.training.gradients import Gradients


class Step(Protocol):
    """A way to carry out a training step."""

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""

    def reset(self) -> None:
        """Set all sums to 0, as an epoch begins."""

    def invalidate(self) -> None:
        """Drop what was recorded: a number that the model or its loss keeps in Python has changed."""


class EagerStep:
    """A step operation by operation: loss, gradients, optimiser, sums of the epoch.

    Args:
        model: in training mode.
        optimizer: its groups' learning rate is set in every step.
        gradients: of a batch.
        sums: name to float64 total on the device, added to in place: `term:<name>` and `correct`.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Gradients, sums: dict[str, Tensor]
    ) -> None:
        self.model, self.optimizer, self.gradients, self.sums = model, optimizer, gradients, sums

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.body(x, y)

    def body(self, x: Tensor, y: Tensor) -> None:
        """Do all of a step that happens on the device, with the learning rate that the optimiser has."""
        self.optimizer.zero_grad(set_to_none=True)
        terms, logits = self.gradients(x, y)
        self.optimizer.step()
        if logits is not None and len(logits) == len(y):
            correct = (logits.argmax(1) == y).sum()
        else:
            correct = torch.full((), math.nan, device=y.device)
        for name, value in {**{f"term:{k}": v * len(y) for k, v in terms.items()}, "correct": correct}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=y.device)
            self.sums[name].add_(value)

    def reset(self) -> None:
        """Set all sums to 0, as an epoch begins."""
        self.sums.clear()

    def invalidate(self) -> None:
        """Drop compiled gradients, if there are any."""
        self.gradients.invalidate()
