"""Per-example gradient stability (the paper's Figure 2): relative change of the loss's gradient at exact radii."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, normal
from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.ranges import Ge, Gt
from bench.core.records import Column
from bench.numerics.autograd_graph import nonsmooth_ops, record_activations
from bench.numerics.derivatives import Expansion, expand
from bench.numerics.engine_check import checked_engine, fast_engine_column
from bench.numerics.lanczos import lanczos
from bench.numerics.micro_batches import join_columns, micro_batch_size
from bench.numerics.model_precision import DTYPES, differentiable_eval
from bench.numerics.vectors import norms, unit

PAPER = "Srinivas et al. 2022, section 5.2 and Figure 2"

COLUMNS = {
    "stability_{radius}": Column(
        "Relative change of the loss's gradient in a random direction at this exact radius, mean over draws",
        board="stability_{radius}",
        direction="lower",
        formula="‖∇f(x+ε) − ∇f(x)‖ / ‖∇f(x)‖, ‖ε‖ = radius",
        source=PAPER,
        role="stability",
    ),
    "stability_{radius}_worst": Column(
        "The same along the Hessian's top eigenvector, on the side where the loss rises",
        formula="ε = radius·w, ∇²f(x)w = θw, |θ| largest, wᵀ∇f ≥ 0",
        role="stability",
        companion_of="stability_{radius}",
        companion="worst",
    ),
    "stability_{radius}_approximation": Column(
        "First-order approximation of the worst change; not a bound",
        formula="‖ε‖·C_f(x)",
        source=PAPER,
        companion_of="stability_{radius}",
        companion="approximation",
    ),
    "stability_{radius}_estimate": Column(
        "Sum of Proposition 1 along the same eigenvector, over the measured radii only: an estimate of the bound, "
        "which the worst change may exceed; missing for models with kinks (ReLU, max-pool)",
        formula="exp(Σ_j Δr_j·max(c_j, c_{j+1})) − 1, c = ‖∇²f w‖/‖∇f‖",
        source="Srinivas et al. 2022, Proposition 1, sharpened (docs/theory.md)",
        companion_of="stability_{radius}",
        companion="estimate",
    ),
    "stability_fast_engine": fast_engine_column(),
}


@evaluation(source=PAPER, columns=COLUMNS, chunk=250, version=2, gradients=True)
def stability(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    radius: Sequence[Annotated[float, Gt(0)]] = (0.001, 0.003, 0.01, 0.03, 0.1),
    draws: Annotated[int, Ge(1)] = 10,
    steps: Annotated[int, Ge(1)] = 10,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Measure the relative gradient change at exact l2 radii, in random directions and in the worst one.

    A direction is an isotropic Gaussian vector scaled to the radius, the same for all radii of a draw; x + ε is
    not clipped to [0, 1], which would change the radius. Missing where ∇f(x) is exactly 0.

    `_estimate` is Proposition 1's exponent summed over the radii given, starting at 0. It bounds `_worst` only where
    ‖∇²f w‖/‖∇f‖ between two neighbouring radii stays below the larger of its values there, which with the suites'
    radii it often does not; the `bounds` evaluation refines the grid until it is settled, and asserts the bound.
    Missing for a model with nonsmooth operations (ReLU, max-pool), which has no such bound. `_approximation` is first
    order and may be exceeded.

    Args:
        model: logits (B, K) from images in [0, 1].
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the directions; each image's own, whatever else is in the batch.
        radius: l2 radii in pixel units. Default: the suites', log-spaced over the paper's range.
        draws: random directions per image (protocol: 10).
        steps: Lanczos products for the worst direction.
        precision: "float32" or "float64" (a copy of the model).

    Returns:
        Column → (B,), float64; see `COLUMNS`.

    Raises:
        UsageError: no radius, a radius ≤ 0, draws < 1 or another precision.
        BenchError: a logit, gradient or product is not finite.
    """
    radii = sorted(set(map(float, radius)))
    if not radii or not 0 < radii[0] <= radii[-1] < float("inf"):
        raise UsageError(f"stability radius: expected positive numbers, got {list(radius)}. Give radii like 0.1.")
    if draws < 1:
        raise UsageError(f"stability draws: expected at least 1, got {draws}. Raise it.")
    size = micro_batch_size(x)
    with differentiable_eval(model, precision) as ready, checked_engine(ready, x[:2].to(DTYPES[precision]), y) as fast:
        parts = [
            _measure(ready, a.to(DTYPES[precision]), b, seed, radii, draws, steps)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    return join_columns(parts) | {"stability_fast_engine": torch.full_like(y, fast, dtype=torch.bool)}


def _measure(
    model: nn.Module, x: Tensor, y: Tensor, seed: int, radii: list[float], draws: int, steps: int
) -> dict[str, Tensor]:
    """Return the columns of a micro-batch x (B, C, H, W), radii ascending."""
    keys = example_keys(x, seed)
    with record_activations(model) as calls:
        here = expand(model, x, y)
    smooth = not nonsmooth_ops(here.logits, calls)
    worst, curvature, at_zero = _worst_direction(here, keys, steps)
    missing = norms(here.gradient) == 0
    here = here.detach()
    random = [unit(normal(keys, Stream.STABILITY_DIRECTION + i, tuple(x.shape[1:]), x.dtype)) for i in range(draws)]
    columns: dict[str, Tensor] = {}
    exponent, before, inner = torch.zeros_like(curvature), at_zero, 0.0
    for radius in radii:
        changes = [_change(here, expand(model, x + radius * d, y, second_order=False)) for d in random]
        there = expand(model, x + radius * worst, y)
        local = _directional(there, worst)
        exponent = exponent + (radius - inner) * torch.maximum(before, local)
        before, inner = local, radius
        values = {
            "": torch.stack(changes).mean(0),
            "_worst": _change(here, there),
            "_approximation": radius * curvature,
            "_estimate": exponent.expm1() if smooth else torch.full_like(exponent, torch.nan),
        }
        columns |= {f"stability_{radius:g}{k}": v.masked_fill(missing, torch.nan) for k, v in values.items()}
    return columns


def _change(here: Expansion, there: Expansion) -> Tensor:
    """Return ‖∇f(there) − ∇f(here)‖/‖∇f(here)‖, (B,) float64."""
    ratio = (there.scale / here.scale)[:, None]
    return norms(there.gradient * ratio - here.gradient) / norms(here.gradient)


def _worst_direction(at: Expansion, keys: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the top eigenvector (B, C, H, W) on the rising side, C_f (B,), and ‖∇²f w‖/‖∇f‖ (B,)."""
    spectrum = lanczos(at.hvp, normal(keys, Stream.LANCZOS_START, (at.gradient.shape[1],), at.x.dtype), steps)
    w = unit(spectrum.top_vector)
    w = torch.where((w * at.gradient).sum(1, keepdim=True) < 0, -w, w).view_as(at.x)
    return w, spectrum.norm / norms(at.gradient), _directional(at, w)


def _directional(at: Expansion, w: Tensor) -> Tensor:
    """Return ‖∇²f w‖/‖∇f‖ for unit directions w (B, C, H, W), (B,) float64."""
    return norms(at.hvp(w.flatten(1))) / norms(at.gradient)
