"""Propositions 1 and 2 and the Taylor remainder on traced segments: left side, right side, tolerance.

Notation of docs/theory.md: G = ‖∇f(x)‖ + ε0; D(s) = upper sum of ‖ε‖∫₀ˢC, D = D(1); t = ‖ε‖·max C;
E(z) = e^z − 1; r = ‖ε‖. Sums over a segment come from its nodes, so they are numbers, not symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.numerics.segments import SegmentGrids

RELATIVE, ABSOLUTE = 1e-6, 1e-11


@dataclass(frozen=True)
class Inequality:
    """One inequality for S segments (or B examples): it holds where left ≤ right + tolerance."""

    left: Tensor
    right: Tensor
    tolerance: Tensor

    @property
    def violated(self) -> Tensor:
        """Where it fails. A right side that is not a number (0·∞) says nothing and is not a failure."""
        return self.left > self.right + self.tolerance

    @property
    def tightness(self) -> Tensor:
        """left/right; NaN where both vanish."""
        return self.left / self.right


def phi(z: Tensor) -> Tensor:
    """Return (e^z − 1)/z, 1 at z = 0."""
    small = z.abs() < 1e-300
    return torch.where(small, 1.0, z.expm1() / torch.where(small, 1.0, z))


def phi_minus_one(z: Tensor) -> Tensor:
    """Return (e^z − 1 − z)/z without cancellation: its series below 1e-2, 0 at z = 0."""
    series = z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6 * (1 + z / 7)))))
    return torch.where(z < 1e-2, series, phi(z) - 1)


def growth_integral(paths: SegmentGrids, eps0: float) -> Tensor:
    """Return ∫₀¹(e^{D(s)} − 1)ds for the piecewise linear upper sum D(s), (S,).

    On an interval that starts at D_k and rises by z the integrand's mean is E(D_k) + e^{D_k}(φ(z) − 1).
    """
    z = paths.upper(eps0)
    before = torch.cumsum(z, 0) - z
    k = paths.inner
    start = (paths.first - torch.arange(len(paths.radius), device=k.device))[paths.segment[k]]
    before = before - before[start]
    share = paths.s[k + 1] - paths.s[k]
    return paths.total(share * (before.expm1() + before.exp() * phi_minus_one(z)))


def segment_inequalities(paths: SegmentGrids, eps0: float) -> dict[str, Inequality]:
    """Return every inequality that must hold on a segment, by name.

    `*_integral` is the sharpest form, `*_supremum` has t for D, `*_printed` the paper's own constants (with
    ‖∇f‖ → G where ε0 > 0; Proposition 2 as printed is false for ε0 > 0 and is then left out).
    """
    first, last = paths.first, paths.last
    r = paths.radius
    g0, g1 = paths.gradient[first].norm(dim=1), paths.gradient[last].norm(dim=1)
    big = g0 + eps0
    change = (paths.gradient[last] - paths.gradient[first]).norm(dim=1)
    rise = paths.loss[last] - paths.loss[first]
    linear = r * (paths.gradient[first] * paths.direction).sum(1)
    d = paths.total(paths.upper(eps0))
    t = r * _largest(paths, paths.curvature(eps0))
    mean = growth_integral(paths, eps0)
    slope_noise, loss_noise = ABSOLUTE * (g0 + g1), ABSOLUTE * (paths.loss[first] + paths.loss[last] + r * g0)

    def compare(left: Tensor, right: Tensor, noise: Tensor) -> Inequality:
        return Inequality(left, right, RELATIVE * right.nan_to_num(posinf=0.0) + noise)

    result = {
        "gradient_integral": compare(change, big * d.expm1(), slope_noise),
        "gradient_supremum": compare(change, big * t.expm1(), slope_noise),
        "gradient_printed": compare(change, big * t * t.exp(), slope_noise),
        "growth": compare(((g1 + eps0) / big).log().abs(), d, torch.full_like(d, ABSOLUTE)),
        "loss_integral": compare(rise.abs(), r * (big * (1 + mean) - eps0), loss_noise),
        "loss_supremum": compare(rise.abs(), r * (big * phi(t) - eps0), loss_noise),
        "remainder_integral": compare((rise - linear).abs(), r * big * mean, loss_noise),
        "remainder_supremum": compare((rise - linear).abs(), r * big * phi_minus_one(t), loss_noise),
    }
    if eps0 == 0:
        result["loss_printed"] = compare(rise.abs(), r * g0 * (1 + t * t.exp()), loss_noise)
    return result


def approximations(paths: SegmentGrids, curvature: Tensor) -> dict[str, Tensor]:
    """Return measured/claimed for what the paper states as approximations or prints wrongly, (S,) each.

    Args:
        paths: segments.
        curvature: C_f(x) of each segment's start, with the spectral norm and ε0 = 0, (S,).

    Returns:
        "quadratic_gradient": ‖∇f(x+ε) − ∇f(x)‖ / (‖ε‖C_f(x)‖∇f(x)‖); "quadratic_loss": |f(x+ε) − f(x)| over
        ‖ε‖‖∇f(x)‖(1 + ‖ε‖C_f(x)); "taylor_printed": |remainder| over ½·max C·‖ε‖·‖∇f(x)‖, eq. (1) as printed.
        Above 1: violated.
    """
    first, last = paths.first, paths.last
    r, g0 = paths.radius, paths.gradient[first].norm(dim=1)
    change = (paths.gradient[last] - paths.gradient[first]).norm(dim=1)
    rise = paths.loss[last] - paths.loss[first]
    linear = r * (paths.gradient[first] * paths.direction).sum(1)
    top = torch.maximum(_largest(paths, paths.curvature(0.0)), curvature)
    return {
        "quadratic_gradient": change / (r * curvature * g0),
        "quadratic_loss": rise.abs() / (r * g0 * (1 + r * curvature)),
        "taylor_printed": (rise - linear).abs() / (0.5 * top * r * g0),
    }


def _largest(paths: SegmentGrids, values: Tensor) -> Tensor:
    """Return the largest of the nodes' values on every segment, (S,)."""
    start = torch.full_like(paths.radius, -torch.inf)
    return start.scatter_reduce(0, paths.segment, values, "amax")
