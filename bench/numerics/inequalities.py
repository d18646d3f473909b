"""Propositions 1 and 2 and the Taylor remainder: right sides, and both sides measured on traced segments.

With r = ‖ε‖, G = ‖∇f(x)‖ + ε0, C(s) = ‖∇²f·ε̂‖/(‖∇f‖ + ε0) at x + sε, A(s) = r∫₀ˢC and t = r·max C:

    Proposition 1       ‖∇f(x+ε) − ∇f(x)‖         ≤ G·(e^A − 1)              `proposition_1_bound`, theory (2.2)
    Proposition 2       |f(x+ε) − f(x)|           ≤ r·(G·∫₀¹e^{A(s)}ds − ε0)  `proposition_2_bound`, theory (2.3)
    Taylor remainder    |f(x+ε) − f(x) − ∇f(x)ᵀε| ≤ r·G·∫₀¹(e^{A(s)} − 1)ds  `taylor_remainder_bound`, theory (2.4)

The first two are Srinivas et al. 2022, Propositions 1 and 2, sharpened; the third corrects its eq. (1). "Theory" is
docs/theory.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.numerics.segments import SegmentGrids

RELATIVE, ABSOLUTE = 1e-6, 1e-11


@dataclass(frozen=True)
class Inequality:
    """One inequality for S segments (or B examples): it holds where left ≤ right + tolerance.

    Attributes:
        left: measured, (S,).
        right: its bound, (S,).
        tolerance: for rounding, (S,).
    """

    left: Tensor
    right: Tensor
    tolerance: Tensor

    @property
    def violated(self) -> Tensor:
        """Where it fails, (S,). A right side that is not a number (0·∞) asserts nothing and is not a failure."""
        return self.left > self.right + self.tolerance

    @property
    def tightness(self) -> Tensor:
        """left/right, (S,); NaN where both vanish."""
        return self.left / self.right


def phi(z: Tensor) -> Tensor:
    """Return (e^z − 1)/z, 1 at z = 0."""
    small = z.abs() < 1e-300
    return torch.where(small, 1.0, z.expm1() / torch.where(small, 1.0, z))


def phi_minus_one(z: Tensor) -> Tensor:
    """Return (e^z − 1 − z)/z without cancellation: its series below 1e-2, 0 at z = 0."""
    series = z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6 * (1 + z / 7)))))
    return torch.where(z < 1e-2, series, phi(z) - 1)


def proposition_1_bound(gradient_norm: Tensor, exponent: Tensor) -> Tensor:
    """Return G·(e^A − 1), the right side of Proposition 1, (S,).

    Claim: ‖∇f(x+ε) − ∇f(x)‖ ≤ G·(e^A − 1). Holds when: f is twice continuously differentiable along the segment,
    and the exponent is at least A. Best constant: attained by f(x) = e^{δx}. docs/theory.md, (2.2) and (2.5).

    Args:
        gradient_norm: G = ‖∇f(x)‖ + ε0, (S,).
        exponent: A, or t = ‖ε‖·max C, which is at least A, (S,).
    """
    return gradient_norm * exponent.expm1()


def proposition_1_bound_printed(gradient_norm: Tensor, t: Tensor) -> Tensor:
    """Return G·t·e^t, Proposition 1 as the paper prints it (with G for ‖∇f‖), (S,).

    Args:
        gradient_norm: G = ‖∇f(x)‖ + ε0, (S,).
        t: ‖ε‖·max C, (S,).
    """
    return gradient_norm * t * t.exp()


def proposition_2_bound(radius: Tensor, gradient_norm: Tensor, mean_growth: Tensor, eps0: float) -> Tensor:
    """Return r·(G·∫₀¹e^{A(s)}ds − ε0), the right side of Proposition 2, (S,).

    Claim: |f(x+ε) − f(x)| ≤ r·(G·∫₀¹e^{A(s)}ds − ε0). Holds when: as `proposition_1_bound`, and `mean_growth` is at
    least the integral. φ(t) must not take the A of the whole segment for t. docs/theory.md, (2.3), (2.5).

    Args:
        radius: r = ‖ε‖, (S,).
        gradient_norm: G = ‖∇f(x)‖ + ε0, (S,).
        mean_growth: ∫₀¹e^{A(s)}ds, or φ(t) = (e^t − 1)/t with t = ‖ε‖·max C, (S,).
        eps0: ε0.
    """
    return radius * (gradient_norm * mean_growth - eps0)


def proposition_2_bound_printed(radius: Tensor, gradient_norm: Tensor, t: Tensor) -> Tensor:
    """Return r·‖∇f‖·(1 + t·e^t), Proposition 2 as the paper prints it, (S,). False for ε0 > 0.

    Args:
        radius: r = ‖ε‖, (S,).
        gradient_norm: ‖∇f(x)‖, (S,).
        t: ‖ε‖·max C with ε0 = 0, (S,).
    """
    return radius * gradient_norm * (1 + t * t.exp())


def taylor_remainder_bound(radius: Tensor, gradient_norm: Tensor, mean_growth_minus_one: Tensor) -> Tensor:
    """Return r·G·∫₀¹(e^{A(s)} − 1)ds, which corrects the paper's eq. (1), (S,).

    Claim: |f(x+ε) − f(x) − ∇f(x)ᵀε| ≤ r·G·∫₀¹(e^{A(s)} − 1)ds. Holds when: as `proposition_2_bound`.
    docs/theory.md, (2.4) and (2.5).

    Args:
        radius: r = ‖ε‖, (S,).
        gradient_norm: G = ‖∇f(x)‖ + ε0, (S,).
        mean_growth_minus_one: ∫₀¹(e^{A(s)} − 1)ds, or φ(t) − 1 with t = ‖ε‖·max C, (S,).
    """
    return radius * gradient_norm * mean_growth_minus_one


def growth_integral(grids: SegmentGrids, eps0: float) -> Tensor:
    """Return ∫₀¹(e^{D(s)} − 1)ds for the piecewise linear upper sum D(s) of A(s), (S,).

    On an interval that starts at D_k and rises by z the integrand's mean is E(D_k) + e^{D_k}(φ(z) − 1).

    Args:
        grids: S segments.
        eps0: ε0.
    """
    z = grids.upper(eps0)
    before = torch.cumsum(z, 0) - z
    k = grids.inner
    start = (grids.first - torch.arange(len(grids.radius), device=k.device))[grids.segment[k]]
    before = before - before[start]
    share = grids.s[k + 1] - grids.s[k]
    return grids.total(share * (before.expm1() + before.exp() * phi_minus_one(z)))


def segment_inequalities(grids: SegmentGrids, eps0: float) -> dict[str, Inequality]:
    """Return every inequality that must hold on a segment, by name.

    Claim: see the module; "growth" is |log((‖∇f(x+ε)‖ + ε0)/G)| ≤ A, (2.1). Holds when: f is twice continuously
    differentiable along the segment. Measured by: A(s) as the upper sum D(s) of the nodes, which is at least A(s)
    wherever C between two nodes stays below its larger end value; max C as the largest node's value, which is at most
    the supremum, so that a pass of a `*_supremum` form is a proof up to rounding. Tolerance: 1e-6 of the right side,
    and 1e-11 of the quantities that the left side is a difference of.

    Args:
        grids: S segments.
        eps0: ε0 ≥ 0.

    Returns:
        `*_integral` are the sharpest forms, `*_supremum` have t for A, `*_printed` the paper's own constants (with
        ‖∇f‖ → G where ε0 > 0; Proposition 2 as printed is false for ε0 > 0 and is then left out).
    """
    r, d = grids.radius, grids.total(grids.upper(eps0))
    start, end = grids.gradient[grids.first].norm(dim=1), grids.gradient[grids.last].norm(dim=1)
    big = start + eps0
    change, rise, remainder = _measured(grids)
    t = r * _largest(grids, grids.curvature(eps0))
    mean = growth_integral(grids, eps0)
    gradient_noise = ABSOLUTE * (start + end)
    loss_noise = ABSOLUTE * (grids.loss[grids.first] + grids.loss[grids.last] + r * start)

    def compare(left: Tensor, right: Tensor, noise: Tensor) -> Inequality:
        return Inequality(left, right, RELATIVE * right.nan_to_num(posinf=0.0) + noise)

    result = {
        "gradient_integral": compare(change, proposition_1_bound(big, d), gradient_noise),
        "gradient_supremum": compare(change, proposition_1_bound(big, t), gradient_noise),
        "gradient_printed": compare(change, proposition_1_bound_printed(big, t), gradient_noise),
        "growth": compare(((end + eps0) / big).log().abs(), d, torch.full_like(d, ABSOLUTE)),
        "loss_integral": compare(rise.abs(), proposition_2_bound(r, big, 1 + mean, eps0), loss_noise),
        "loss_supremum": compare(rise.abs(), proposition_2_bound(r, big, phi(t), eps0), loss_noise),
        "remainder_integral": compare(remainder, taylor_remainder_bound(r, big, mean), loss_noise),
        "remainder_supremum": compare(remainder, taylor_remainder_bound(r, big, phi_minus_one(t)), loss_noise),
    }
    if eps0 == 0:
        result["loss_printed"] = compare(rise.abs(), proposition_2_bound_printed(r, start, t), loss_noise)
    return result


def approximations(grids: SegmentGrids, curvature: Tensor) -> dict[str, Tensor]:
    """Return measured/claimed for what the paper states as approximations or prints wrongly, (S,) each.

    Args:
        grids: S segments.
        curvature: C_f(x) of each segment's start, with the spectral norm and ε0 = 0, (S,).

    Returns:
        "quadratic_gradient": ‖∇f(x+ε) − ∇f(x)‖ / (‖ε‖C_f(x)‖∇f(x)‖); "quadratic_loss": |f(x+ε) − f(x)| over
        ‖ε‖‖∇f(x)‖(1 + ‖ε‖C_f(x)); "taylor_printed": |remainder| over ½·max C·‖ε‖·‖∇f(x)‖, eq. (1) as printed.
        Above 1: violated.
    """
    r, start = grids.radius, grids.gradient[grids.first].norm(dim=1)
    change, rise, remainder = _measured(grids)
    top = torch.maximum(_largest(grids, grids.curvature(0.0)), curvature)
    return {
        "quadratic_gradient": change / (r * curvature * start),
        "quadratic_loss": rise.abs() / (r * start * (1 + r * curvature)),
        "taylor_printed": remainder / (0.5 * top * r * start),
    }


def _measured(grids: SegmentGrids) -> tuple[Tensor, Tensor, Tensor]:
    """Return ‖∇f(x+ε) − ∇f(x)‖, f(x+ε) − f(x) and |f(x+ε) − f(x) − ∇f(x)ᵀε|, (S,) each."""
    first, last = grids.first, grids.last
    change = (grids.gradient[last] - grids.gradient[first]).norm(dim=1)
    rise = grids.loss[last] - grids.loss[first]
    linear = grids.radius * (grids.gradient[first] * grids.direction).sum(1)
    return change, rise, (rise - linear).abs()


def _largest(grids: SegmentGrids, values: Tensor) -> Tensor:
    """Return the largest of the nodes' values on every segment, (S,)."""
    start = torch.full_like(grids.radius, -torch.inf)
    return start.scatter_reduce(0, grids.segment, values, "amax")
