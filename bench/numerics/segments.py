"""The loss along segments x + sε, 0 ≤ s ≤ 1, on grids refined where it curves: the left sides of Propositions 1 and 2.

Every node costs one gradient and one Hessian-vector product. ‖∇²f·ε̂‖ along the segment may replace ‖∇²f‖ in every
one of the bounds (docs/theory.md, section 2), is sharper, and needs no eigenvalue.
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
# Exponents and shares of the gradient below this are rounding.
FLOOR = 1e-9


@dataclass(frozen=True)
class SegmentGrids:
    """The N nodes of S segments, sorted by segment and position; an interval lies between neighbours of one segment.

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

    @classmethod
    def empty(cls, direction: Tensor, radius: Tensor) -> SegmentGrids:
        """Return segments without nodes.

        Args:
            direction: unit vectors ε̂, (S, d).
            radius: lengths ‖ε‖, (S,).
        """
        none, no_vector = radius.new_zeros(0), direction.new_zeros(0, direction.shape[1])
        return cls(radius, none.long(), none, none, no_vector, no_vector, direction)

    @property
    def inner(self) -> Tensor:
        """Index k of the first node of every interval, (N − S,)."""
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
        """Return the sum over each segment of values given per interval, (N − S,) → (S,)."""
        return values.new_zeros(len(self.radius)).index_add_(0, self.segment[self.inner], values)

    def length(self) -> Tensor:
        """Return ‖ε‖·(s_{k+1} − s_k) of every interval, (N − S,)."""
        k = self.inner
        return (self.s[k + 1] - self.s[k]) * self.radius[self.segment[k]]

    def curvature(self, eps0: float) -> Tensor:
        """Return ‖∇²f·ε̂‖/(‖∇f‖ + ε0) at every node, (N,); infinite at a critical point if ε0 = 0."""
        top, bottom = self.product.norm(dim=1), self.gradient.norm(dim=1) + eps0
        return torch.where(top > 0, top / bottom, 0.0)

    def upper(self, eps0: float) -> Tensor:
        """Return ‖ε‖·(s_{k+1} − s_k)·max(C_k, C_{k+1}) of every interval: the terms of the upper sum D, (N − S,)."""
        c, k = self.curvature(eps0), self.inner
        return torch.maximum(c[k], c[k + 1]) * self.length()

    def quadrature_error(self) -> Tensor:
        """Return ‖g_{k+1} − g_k − trapezoid of ∇²f·ε‖ of every interval: what the nodes miss, (N − S,)."""
        k = self.inner
        trapezoid = (self.product[k] + self.product[k + 1]) * self.length()[:, None] / 2
        error = (self.gradient[k + 1] - self.gradient[k] - trapezoid).norm(dim=1)
        rounding = 1e-12 * (self.gradient[k].norm(dim=1) + self.gradient[k + 1].norm(dim=1))
        return (error - rounding).clamp_min(0)

    def movement(self) -> Tensor:
        """Return ‖g_{k+1} − g_k‖ of every interval, (N − S,)."""
        k = self.inner
        return (self.gradient[k + 1] - self.gradient[k]).norm(dim=1)

    def self_check(self) -> Tensor:
        """Return ‖∇f(x+ε) − ∇f(x) − ∫∇²f·ε ds‖ over the length of the gradient's path, (S,)."""
        k = self.inner
        trapezoid = (self.product[k] + self.product[k + 1]) * self.length()[:, None] / 2
        integral = self.gradient.new_zeros(len(self.radius), trapezoid.shape[1])
        integral.index_add_(0, self.segment[k], trapezoid)
        change = self.gradient[self.last] - self.gradient[self.first]
        return (change - integral).norm(dim=1) / self.total(self.movement()).clamp_min(1e-300)

    def settled(self) -> Tensor:
        """Return whether more nodes would not change the sums by more than SLACK and QUADRATURE, (S,)."""
        slack, error = self.uncertainty()
        allowed_slack, allowed_error = self.allowed_uncertainty()
        return (self.total(slack) <= allowed_slack) & (self.total(error) <= allowed_error)

    def allowed_uncertainty(self) -> tuple[Tensor, Tensor]:
        """Return how much slack and how much quadrature error a settled segment may have, (S,) each."""
        size = self.gradient[self.first].norm(dim=1)
        return SLACK * self.total(self.upper(0.0)) + FLOOR, QUADRATURE * self.total(self.movement()) + FLOOR * size

    def uncertainty(self) -> tuple[Tensor, Tensor]:
        """Return half of what the upper sum may have too much, and the quadrature error, (N − S,) each."""
        c, k = self.curvature(0.0), self.inner
        jump = (c[k + 1] - c[k]).abs().nan_to_num(nan=torch.inf)
        return jump * self.length() / 2, self.quadrature_error()


def trace_segments(
    oracle: Oracle,
    x: Tensor,
    direction: Tensor,
    radius: Tensor,
    *,
    max_nodes: int = 257,
    demand: Callable[[SegmentGrids], Tensor] | None = None,
) -> SegmentGrids:
    """Evaluate the loss along segments, bisecting the intervals that matter until every segment is settled.

    Args:
        oracle: the loss to second order at given points.
        x: where the segments start, (S, d) float64.
        direction: unit vectors ε̂, (S, d).
        radius: lengths ‖ε‖, (S,).
        max_nodes: at most so many nodes per segment.
        demand: segments (S,) that must be refined although they are settled, because a bound seems to fail.

    Returns:
        The grids, refined until settled or full.
    """
    count = len(x)
    positions = torch.linspace(0, 1, FIRST_INTERVALS + 1, dtype=x.dtype, device=x.device)
    segment = torch.arange(count, device=x.device).repeat_interleave(len(positions))
    grids = _with_nodes(SegmentGrids.empty(direction, radius), oracle, x, segment, positions.repeat(count))
    while True:
        chosen = _intervals_to_bisect(grids, max_nodes, demand(grids) if demand else None)
        if not len(chosen):
            return grids
        middle = (grids.s[chosen] + grids.s[chosen + 1]) / 2
        grids = _with_nodes(grids, oracle, x, grids.segment[chosen], middle)


def _intervals_to_bisect(grids: SegmentGrids, max_nodes: int, demanded: Tensor | None) -> Tensor:
    """Return the first nodes of the intervals to bisect, the worst first where the budget of nodes runs out."""
    k, segment = grids.inner, grids.segment[grids.inner]
    allowed = [a[segment] for a in grids.allowed_uncertainty()]
    even_share = 1.0 / (grids.nodes - 1)[segment]  # every interval may use an even share of the tolerance
    chosen = torch.zeros_like(segment, dtype=torch.bool) if demanded is None else demanded[segment]
    score = torch.zeros_like(even_share)
    for uncertainty, limit in zip(grids.uncertainty(), allowed, strict=True):
        chosen = chosen | ((grids.total(uncertainty)[segment] > limit) & (uncertainty > even_share * limit))
        score = score + (uncertainty / limit).nan_to_num(nan=0.0, posinf=1e300)
    order = torch.argsort(score.masked_fill(~chosen, -1.0), descending=True, stable=True)
    order = order[torch.argsort(segment[order], stable=True)]  # by segment, worst first
    first_interval = grids.first - torch.arange(len(grids.radius)).to(order)
    rank = torch.arange(len(order), device=order.device) - first_interval[segment[order]]
    affordable = rank < (max_nodes - grids.nodes)[segment[order]]
    picked = order[affordable & chosen[order]]
    return k[picked]


def _with_nodes(grids: SegmentGrids, oracle: Oracle, x: Tensor, segment: Tensor, s: Tensor) -> SegmentGrids:
    """Return the grids with nodes added at positions s (M,) of the given segments (M,) from x (S, d)."""
    points = x[segment] + (s * grids.radius[segment])[:, None] * grids.direction[segment]
    added = (segment, s, *oracle(points, segment))
    old = (grids.segment, grids.s, grids.loss, grids.gradient, grids.product)
    values = [torch.cat(both) for both in zip(old, added, strict=True)]
    order = torch.argsort(values[0] + values[1] / 2, stable=True)  # s ≤ 1, halved: segments stay apart
    segment, s, loss, gradient, product = (v[order] for v in values)
    return SegmentGrids(grids.radius, segment, s, loss, gradient, product, grids.direction)
