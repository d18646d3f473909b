"""Adversarial examples on the grid of stored pixel values, where images live and attacks hardly ever look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls
from bench.attacks.pgd import pgd

LEVELS: Final = (255, 16, 15, 31, 63, 127, 1023, 65535)  # largest stored values that are looked for
STEPS: Final = 40
SHRINKINGS: Final = 11  # of a perturbation that rounding takes out of the ball, down to half of it
SEED: Final = 3  # added to the seed: a start of its own


class OnGrid(nn.Module):
    """A network on images that are rounded to stored values first, with the gradient of the network there."""

    def __init__(self, network: nn.Module, levels: int) -> None:
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of the nearest points on the grid."""
        logits: Tensor = self.network(x + (rounded(x, self.levels) - x).detach())
        return logits


def rounded(x: Tensor, levels: int) -> Tensor:
    """Return the nearest points (B, C, H, W) with pixels 0, 1/levels, …, 1."""
    return (x * levels).round() / levels


def levels_of(x: Tensor) -> int:
    """Return how many levels above 0 the pixels of clean images x (B, C, H, W) have; 255 where they fit none known."""
    fits = (n for n in LEVELS if bool(((x * n - (x * n).round()).abs() < 1e-2).all()))
    return next(fits, LEVELS[0])


def on_grid(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int) -> Iterator[Tensor]:
    """Attack the network behind a rounding and yield points on the grid inside the ball, (B, C, H, W) each.

    The perturbation that PGD on the margin finds is shrunk step by step and rounded anew: rounding may lead out of the
    ball. Where it does so, the point is the image itself.

    Args:
        model: network in eval mode.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball.
        norm: "l2" or "linf".
        seed: of the start.

    Yields:
        One point per image, the longest perturbations first.
    """
    levels = levels_of(x)
    found = pgd(OnGrid(model, levels), x, y, eps=eps, norm=norm, losses=["margin"], steps=STEPS, seed=seed + SEED)
    for factor in torch.linspace(1.0, 0.5, SHRINKINGS).tolist():
        point = rounded(x + factor * (found - x), levels).clamp(0, 1)
        inside = balls.size(point - x, norm) <= eps
        yield torch.where(balls.per_example(inside, x), point, x)
