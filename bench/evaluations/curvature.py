"""Per-example gradient norm, Hessian spectral norm and normalised curvature of the loss, by Lanczos."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, normal, uniform
from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.ranges import Ge
from bench.core.records import Column
from bench.numerics.derivatives import expand
from bench.numerics.engine_check import checked_engine, fast_engine_column
from bench.numerics.hessian_terms import logit_term, network_term
from bench.numerics.lanczos import Spectrum, lanczos, power_iteration
from bench.numerics.micro_batches import join_columns, micro_batch_size
from bench.numerics.model_precision import DTYPES, differentiable_eval
from bench.numerics.vectors import norms

PAPER = "Srinivas et al. 2022, section 3.1"
PAPER_PRODUCTS = 11  # the authors' estimate_curvature script with num_power_iter 10: ten normalisations, one more
PAPER_EPS0 = 1e-6
# Lanczos' error is at most residual²/gap: 10 % leaves about 1 % where the gap is as large as the eigenvalue.
CONVERGED = 0.1
SECOND_SEED_SHARE = 0.05  # of the images
SECOND_SEED_AGREES = 0.01  # relative difference of the two norms

COLUMNS = {
    "gradient_norm": Column(
        "Norm of the loss's gradient with respect to the image",
        "1/pixel",
        board="gradient_norm",
        direction="lower",
        formula="‖∇f(x)‖₂",
        source=PAPER,
        role="gradient_norm",
    ),
    "hessian_norm": Column(
        "Spectral norm of the loss's Hessian (largest Ritz value in size; a lower estimate)",
        "1/pixel²",
        board="hessian_norm",
        direction="lower",
        formula="‖∇²f(x)‖₂",
        source=PAPER,
        role="hessian_norm",
        shown=False,
    ),
    "hessian_norm_residual": Column(
        "An eigenvalue of the Hessian lies this near hessian_norm (in size)",
        "1/pixel²",
        formula="‖Hw − θw‖₂",
    ),
    "curvature": Column(
        "Normalised curvature; missing where the gradient is exactly 0",
        "1/pixel",
        board="curvature",
        direction="lower",
        formula="‖∇²f(x)‖₂ / ‖∇f(x)‖₂",
        source=PAPER,
        role="curvature",
    ),
    "eigenvalue_min": Column("Smallest (signed) Ritz value of the Hessian", "1/pixel²", formula="λ_min(∇²f(x))"),
    "eigenvalue_max": Column("Largest (signed) Ritz value of the Hessian", "1/pixel²", formula="λ_max(∇²f(x))"),
    "hessian_norm_paper": Column(
        "The paper-style estimate: 10 power iterations and one more product; biased low, for comparison with its "
        "Table 1",
        "1/pixel²",
        formula="|uᵀHu|, u ← Hu/(‖Hu‖ + 1e-6)",
        source="Srinivas et al. 2022, Table 1; the authors' released code",
    ),
    "curvature_paper": Column(
        "Curvature from the paper-style estimate",
        "1/pixel",
        formula="|uᵀHu| / (‖∇f(x)‖₂ + 1e-6)",
        source="Srinivas et al. 2022, Table 1; the authors' released code",
    ),
    "hessian_logit_term": Column(
        "Spectral norm of the part of the Hessian that comes from the loss's curvature in the logits",
        "1/pixel²",
        formula="‖JᵀH_zJ‖₂, J = ∂z/∂x, H_z = diag(p) − ppᵀ",
        source="Srinivas et al. 2022, section 5.1",
    ),
    "hessian_network_term": Column(
        "Spectral norm of the part of the Hessian that comes from the network's curvature",
        "1/pixel²",
        formula="‖Σ_k (p_k − [k = y])∇²z_k‖₂",
        source="Srinivas et al. 2022, section 5.1, with the label's term",
    ),
    "hvps": Column("Hessian-vector products behind hessian_norm", kind="count"),
    "converged": Column(
        "The residual is at most 10 % of hessian_norm and the second seed, where drawn, agrees to 1 %", kind="flag"
    ),
    "curvature_fast_engine": fast_engine_column(),
    "hessian_norm_second_seed": Column(
        "hessian_norm from another start vector, on a fixed 5 % of the images; missing elsewhere", "1/pixel²"
    ),
}


@evaluation(source=PAPER, columns=COLUMNS, chunk=250, version=2, gradients=True)
def curvature(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 10,
    terms: bool = True,
    precision: str = "float32",
) -> dict[str, Tensor]:
    """Measure gradient norm, Hessian spectral norm and normalised curvature of every image's loss.

    f is cross-entropy at the true label, eval mode, TF32 off. Lanczos with full re-orthogonalisation needs 7 to
    8 products where power iteration needs 17 (LCNN) or more than 70 (standard nets, whose λ_min ≈ −λ_max).
    The paper-style estimate comes from the same Krylov space with one more product, its eleventh.

    Args:
        model: logits (B, K) from images in [0, 1].
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the start vectors; each image's own, whatever else is in the batch.
        steps: Hessian-vector products per image (at most d are made); 10 give 1 % of the mean (protocol). The
            paper-style columns, 11 products, are missing below 10.
        terms: also split the Hessian into its two terms (twice as many products again).
        precision: "float32" or "float64" (a copy of the model).

    Returns:
        Column → (B,); see `COLUMNS`.

    Raises:
        UsageError: steps < 1, or another precision.
        BenchError: a logit, gradient or product is not finite.
    """
    if steps < 1:
        raise UsageError(f"curvature steps: expected at least 1, got {steps}. The protocol's is 10.")
    size = micro_batch_size(x)
    with differentiable_eval(model, precision) as ready, checked_engine(ready, x[:2].to(DTYPES[precision]), y) as fast:
        parts = [
            _measure(ready, a.to(DTYPES[precision]), b, seed, steps, terms)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    return join_columns(parts) | {"curvature_fast_engine": torch.full_like(y, fast, dtype=torch.bool)}


def _measure(model: nn.Module, x: Tensor, y: Tensor, seed: int, steps: int, terms: bool) -> dict[str, Tensor]:
    """Return the columns of a micro-batch x (B, C, H, W)."""
    keys = example_keys(x, seed)
    at = expand(model, x, y)
    scale, start = at.scale.double(), _start(x, keys, Stream.LANCZOS_START)
    paper_steps = max(steps, PAPER_PRODUCTS) if steps >= PAPER_PRODUCTS - 1 else steps
    krylov, gradient = lanczos(at.hvp, start, paper_steps), norms(at.gradient) * scale
    spectrum = krylov.leading(steps)
    norm, residual = spectrum.norm * scale, spectrum.residual * scale
    second = _second_seed(model, x, y, keys, steps)
    agrees = second.isnan() | ((second - norm).abs() <= SECOND_SEED_AGREES * norm)
    paper = _paper_style(krylov, scale)
    columns = {
        "gradient_norm": gradient,
        "hessian_norm": norm,
        "hessian_norm_residual": residual,
        "curvature": torch.where(gradient > 0, norm / gradient, torch.nan),
        "eigenvalue_min": spectrum.ritz[:, 0] * scale,
        "eigenvalue_max": spectrum.ritz[:, -1] * scale,
        "hessian_norm_paper": paper,
        "curvature_paper": paper / (gradient + PAPER_EPS0),
        "hvps": torch.full_like(y, spectrum.ritz.shape[1]),
        "converged": (residual <= CONVERGED * norm) & agrees,
        "hessian_norm_second_seed": second,
    }
    if terms:
        columns |= {
            "hessian_logit_term": lanczos(logit_term(at, y), start, steps).norm * scale,
            "hessian_network_term": lanczos(network_term(at, y), start, steps).norm * scale,
        }
    return columns


def _paper_style(spectrum: Spectrum, scale: Tensor) -> Tensor:
    """Return |uᵀ∇²f u| of the authors' 11 products, (B,); missing where the Krylov space is too small."""
    _, steps, size = spectrum.basis.shape
    if steps < min(PAPER_PRODUCTS, size):
        return torch.full_like(scale, torch.nan)
    return power_iteration(spectrum, PAPER_PRODUCTS, scale=scale, eps0=PAPER_EPS0)


def _start(x: Tensor, keys: Tensor, stream: Stream) -> Tensor:
    """Return the random start vectors of a batch (B, C, H, W), (B, d)."""
    return normal(keys, stream, (x[0].numel(),), x.dtype)


def _second_seed(model: nn.Module, x: Tensor, y: Tensor, keys: Tensor, steps: int) -> Tensor:
    """Return hessian_norm from another start vector for the images whose keys choose it, NaN elsewhere, (B,)."""
    result = torch.full((len(x),), torch.nan, device=x.device, dtype=torch.float64)
    chosen = (uniform(keys, Stream.SECOND_LANCZOS_CHOICE) < SECOND_SEED_SHARE).nonzero().squeeze(1)
    if len(chosen):
        at = expand(model, x[chosen], y[chosen])
        spectrum = lanczos(at.hvp, _start(at.x, keys[chosen], Stream.SECOND_LANCZOS_START), steps)
        result[chosen] = spectrum.norm * at.scale.double()
    return result
