"""Linear heads that tell one point from many, one head per image: class-balanced logistic regression, batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

# Ridge of each Newton step, relative to the mean squared coordinate: the largest that separates, because a small one
# leads into directions in which the inner points hardly differ, where an honest network is hard to attack too.
RIDGES: Final = tuple(10.0**-k for k in range(9))
# How far above the highest inner score the outer one must lie, over that score's own height above the inner mean: less,
# and a random point is often as high (without it, 100 of them found one on 40 % of digits behind 32 features).
CLEARANCE: Final = 1.0


@dataclass(frozen=True, slots=True)
class Heads:
    """One linear head per image, positive at its outer point; all float64.

    Attributes:
        weight: (n, d).
        bias: (n,).
        separated: whether the outer point's score lies clearly above those of all inner points, bool (n,).
    """

    weight: Tensor
    bias: Tensor
    separated: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Return each head's score of its own image's features, (n, d) to (n,)."""
        return (features.double() * self.weight).sum(1) + self.bias


def fit_heads(inner: Tensor, outer: Tensor, closeness: float) -> Heads:
    """Fit a head per image that separates one outer point from the inner ones, and move its zero towards the outer.

    Newton's method on logistic regression with half of the weight on the outer point and a ridge that falls from step
    to step; an image's head is final as soon as it separates clearly. Then the bias is set: of the gap between the
    highest inner score and the outer one, the share `closeness` lies below zero.

    Args:
        inner: features of the inner points, (n, P, d).
        outer: features of the outer points, (n, d).
        closeness: 0 … 1; near 1, hardly anything but the outer point is positive.

    Returns:
        The heads; where an outer point cannot be separated, one that does not.
    """
    points = torch.cat([inner, outer[:, None]], 1).double()
    finite = points.isfinite().all(2).all(1)
    points = torch.where(finite[:, None, None], points, 0)
    centre = points[:, :-1].mean(1, keepdim=True)
    basis, coordinates = _coordinates(points - centre)
    scale = coordinates.square().mean((1, 2), keepdim=True).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    solution = _newton(coordinates / scale) / scale[:, :, 0]
    weight = solution if basis is None else (basis @ solution[:, :, None])[:, :, 0]
    score = (points @ weight[:, :, None])[:, :, 0]
    top, at_outer = score[:, :-1].amax(1), score[:, -1]
    return Heads(weight, -(at_outer - (1 - closeness) * (at_outer - top)), finite & _clear(score))


def _clear(score: Tensor) -> Tensor:
    """Return whether the last of the scores (n, P) lies clearly above the others, bool (n,)."""
    inner, outer = score[:, :-1], score[:, -1]
    top = inner.amax(1)
    return outer - top > CLEARANCE * (top - inner.mean(1))


def _coordinates(points: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return an orthonormal basis (n, d, P) of the points' span and their coordinates in it, if those are fewer."""
    if points.shape[2] <= points.shape[1]:
        return None, points
    basis = torch.linalg.qr(points.mT).Q
    return basis, points @ basis


def _newton(points: Tensor) -> Tensor:
    """Return directions (n, r) on which the last of the points (n, P, r) lies above the others, where there are."""
    n, count, size = points.shape
    ones = torch.cat([points, points.new_ones(n, count, 1)], 2)  # the bias as one more coordinate
    sign = points.new_full((count,), -1)
    share = points.new_full((count,), 0.5 / (count - 1))
    sign[-1], share[-1] = 1, 0.5
    identity = torch.eye(size + 1, dtype=points.dtype, device=points.device)
    solution = points.new_zeros(n, size + 1)
    todo = torch.arange(n, device=points.device)
    for ridge in RIDGES:
        at, w = ones[todo], solution[todo]
        chance = torch.sigmoid(-sign * (at @ w[:, :, None])[:, :, 0])  # of the other side
        gradient = (at * (share * sign * chance)[:, :, None]).sum(1) - ridge * w
        curvature = (at * (share * chance * (1 - chance))[:, :, None]).mT @ at + ridge * identity
        solution[todo] = w + torch.linalg.solve(curvature, gradient)
        score = (at @ solution[todo][:, :, None])[:, :, 0]
        todo = todo[~_clear(score)]
        if not len(todo):
            break
    return solution[:, :-1]
