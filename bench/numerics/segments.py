"""The loss along segments x + sε, 0 ≤ s ≤ 1, on grids refined where it curves: what Propositions 1 and 2 speak of.

Every node costs one gradient and one Hessian-vector product. ‖∇²f·ε̂‖ along the segment may stand for ‖∇²f‖ in
every one of the bounds (docs/theory.md, section 2), is sharper, and needs no eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (points (N, d), segment of each (N,)) → loss (N,), gradient (N, d), ∇²f·ε̂ (N, d), all float64
Oracle = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
FIRST_INTERVALS = 8
# A grid is settled when the upper sum's slack and the trapezoid's error are below these shares of the whole.
SLACK, QUADRATURE = 0.1, 1e-2
# Below this exponent, and this share of the gradient, rounding is all there is to see.
FLOOR = 1e-9


@dataclass(frozen=True)
class SegmentGrids:
    """Nodes of S segments, sorted by segment and position.

    Attributes:
        radius: ‖ε‖ of each segment, (S,).
        segment: which one a node belongs to, (N,).
        s: its position in [0, 1], (N,).
        loss: f, (N,).
        gradient: ∇f, (N, d).
        product: ∇²f·ε̂, (N, d).
        direction: ε̂, (S, d).
    """

    radius: Tensor
    segment: Tensor
    s: Tensor
    loss: Tensor
    gradient: Tensor
    product: Tensor
    direction: Tensor

    @property
    def inner(self) -> Tensor:
        """Indices k of nodes that are followed by one of the same segment: the intervals, (N − S,)."""
        return (self.segment[1:] == self.segment[:-1]).nonzero().squeeze(1)

    @property
    def first(self) -> Tensor:
        """Index of every segment's node at s = 0, (S,)."""
        return torch.searchsorted(self.segment, torch.arange(len(self.radius), device=self.s.device))

    @property
    def last(self) -> Tensor:
        """Index of every segment's node at s = 1, (S,)."""
        return torch.searchsorted(self.segment, torch.arange(len(self.radius), device=self.s.device), right=True) - 1

    @property
    def nodes(self) -> Tensor:
        """Nodes per segment, (S,)."""
        return self.last - self.first + 1

    def total(self, values: Tensor) -> Tensor:
        """Sum one value per interval over each segment, (S,)."""
        return values.new_zeros(len(self.radius)).index_add_(0, self.segment[self.inner], values)

    def length(self) -> Tensor:
        """Return ‖ε‖·(s_{k+1} − s_k) of every interval."""
        k = self.inner
        return (self.s[k + 1] - self.s[k]) * self.radius[self.segment[k]]

    def curvature(self, eps0: float) -> Tensor:
        """Return ‖∇²f·ε̂‖/(‖∇f‖ + ε0) at every node, (N,); infinite at a critical point if ε0 = 0."""
        top, bottom = self.product.norm(dim=1), self.gradient.norm(dim=1) + eps0
        return torch.where(top > 0, top / bottom, 0.0)

    def upper(self, eps0: float) -> Tensor:
        """Return ‖ε‖·h·max(C_k, C_{k+1}) of every interval: the terms of the upper sum D."""
        c, k = self.curvature(eps0), self.inner
        return torch.maximum(c[k], c[k + 1]) * self.length()

    def quadrature_error(self) -> Tensor:
        """Return ‖g_{k+1} − g_k − trapezoid of ∇²f·ε‖ of every interval: what the nodes do not see."""
        k = self.inner
        seen = (self.product[k] + self.product[k + 1]) * self.length()[:, None] / 2
        error = (self.gradient[k + 1] - self.gradient[k] - seen).norm(dim=1)
        rounding = 1e-12 * (self.gradient[k].norm(dim=1) + self.gradient[k + 1].norm(dim=1))
        return (error - rounding).clamp_min(0)

    def movement(self) -> Tensor:
        """Return ‖g_{k+1} − g_k‖ of every interval."""
        k = self.inner
        return (self.gradient[k + 1] - self.gradient[k]).norm(dim=1)

    def self_check(self) -> Tensor:
        """Return ‖∇f(x+ε) − ∇f(x) − ∫∇²f·ε ds‖ over the length of the gradient's path, (S,)."""
        k = self.inner
        seen = (self.product[k] + self.product[k + 1]) * self.length()[:, None] / 2
        integral = self.gradient.new_zeros(len(self.radius), seen.shape[1]).index_add_(0, self.segment[k], seen)
        change = self.gradient[self.last] - self.gradient[self.first]
        return (change - integral).norm(dim=1) / self.total(self.movement()).clamp_min(1e-300)

    def settled(self) -> Tensor:
        """Return whether more nodes would not change the sums by more than SLACK and QUADRATURE, (S,)."""
        slack, error = self._doubts()
        allowed_slack, allowed_error = self._allowed()
        return (self.total(slack) <= allowed_slack) & (self.total(error) <= allowed_error)

    def _allowed(self) -> tuple[Tensor, Tensor]:
        """Return, per segment, how much slack and how much quadrature error is left alone."""
        size = self.gradient[self.first].norm(dim=1)
        return SLACK * self.total(self.upper(0.0)) + FLOOR, QUADRATURE * self.total(self.movement()) + FLOOR * size

    def _doubts(self) -> tuple[Tensor, Tensor]:
        """Return, per interval, half of what the upper sum may have too much, and the quadrature error."""
        c, k = self.curvature(0.0), self.inner
        jump = (c[k + 1] - c[k]).abs().nan_to_num(nan=torch.inf)
        return jump * self.length() / 2, self.quadrature_error()


def trace_segments(
    oracle: Oracle, x: Tensor, direction: Tensor, radius: Tensor, *, max_nodes: int = 257,
    demand: Callable[[SegmentGrids], Tensor] | None = None,
) -> SegmentGrids:  # fmt: skip
    """Evaluate the loss along segments, bisecting the intervals that matter until every segment is settled.

    Args:
        oracle: the loss to second order at given points.
        x: where the segments start, (S, d) float64.
        direction: unit vectors ε̂, (S, d).
        radius: lengths ‖ε‖, (S,).
        max_nodes: at most so many nodes per segment.
        demand: segments (S,) that must be refined although they are settled, because a bound seems to fail.
    """
    count = len(x)
    grid = torch.linspace(0, 1, FIRST_INTERVALS + 1, dtype=x.dtype, device=x.device)
    segment = torch.arange(count, device=x.device).repeat_interleave(len(grid))
    paths = _add_nodes(oracle, None, x, direction, radius, segment, grid.repeat(count))
    while True:
        doubtful = _intervals_to_bisect(paths, max_nodes, demand(paths) if demand else None)
        if not len(doubtful):
            return paths
        middle = (paths.s[doubtful] + paths.s[doubtful + 1]) / 2
        paths = _add_nodes(oracle, paths, x, direction, radius, paths.segment[doubtful], middle)


def _intervals_to_bisect(paths: SegmentGrids, max_nodes: int, demanded: Tensor | None) -> Tensor:
    """Return the first nodes of the intervals to bisect, the worst first where the budget of nodes runs out."""
    k, inside = paths.inner, paths.segment[paths.inner]
    allowed = [a[inside] for a in paths._allowed()]
    doubts = paths._doubts()
    even = 1.0 / (paths.nodes - 1)[inside]  # every interval may use an even share of the tolerance
    chosen = torch.zeros_like(inside, dtype=torch.bool) if demanded is None else demanded[inside]
    score = torch.zeros_like(even)
    for doubt, limit in zip(doubts, allowed, strict=True):
        chosen = chosen | ((paths.total(doubt)[inside] > limit) & (doubt > even * limit))
        score = score + (doubt / limit).nan_to_num(nan=0.0, posinf=1e300)
    order = torch.argsort(score.masked_fill(~chosen, -1.0), descending=True, stable=True)
    order = order[torch.argsort(inside[order], stable=True)]  # by segment, worst first
    rank = (
        torch.arange(len(order), device=order.device)
        - (paths.first - torch.arange(len(paths.radius)).to(order))[inside[order]]
    )
    affordable = rank < (max_nodes - paths.nodes)[inside[order]]
    picked = order[affordable & chosen[order]]
    return k[picked]


def _add_nodes(
    oracle: Oracle, paths: SegmentGrids | None, x: Tensor, direction: Tensor, radius: Tensor, segment: Tensor, s: Tensor
) -> SegmentGrids:
    """Return the paths with nodes added at positions s of the given segments."""
    points = x[segment] + (s * radius[segment])[:, None] * direction[segment]
    values: list[Tensor] = [segment, s, *oracle(points, segment)]
    if paths is not None:
        old = (paths.segment, paths.s, paths.loss, paths.gradient, paths.product)
        values = [torch.cat(pair) for pair in zip(old, values, strict=True)]
    order = torch.argsort(values[0] + values[1] / 2, stable=True)  # s ≤ 1, halved: segments stay apart
    segment, s, loss, gradient, product = (v[order] for v in values)
    return SegmentGrids(radius, segment, s, loss, gradient, product, direction)
