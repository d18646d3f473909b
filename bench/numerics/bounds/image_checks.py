"""Assert what holds at an image itself: softmax, Hessian by layers, activations, data-free constants.

Claims and proofs: docs/theory.md, sections 4 to 7. Holds when: affine operations and elementwise activations alone
lie between image and logits (the softmax's claims always). Measured by: exact products of the Hessian, and Lanczos
norms, which err low and appear on left sides only. Tolerance: 1e-9 relative; 1e-8 absolute for activations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.attacks.core.randomness import Stream
from bench.numerics.autograd_graph import Activation
from bench.numerics.bounds.batch import SPECTRUM_STEPS, BoundBatch
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.bounds.jacobian_checks import check_jacobian
from bench.numerics.derivatives import Expansion
from bench.numerics.hessian_terms import Product, error_vector
from bench.numerics.inequalities import Inequality
from bench.numerics.lanczos import Spectrum, lanczos
from bench.numerics.layer_bounds import LayerwiseHessian
from bench.numerics.lipschitz import LipschitzGraph, lipschitz_graph
from bench.numerics.op_norms import nonaffine_ops
from bench.numerics.vectors import norms, unit

NORM_STEPS = 10
# The library's softplus is cut to a line at βz = 20, where s' jumps by 2e-9.
ACTIVATION_TOLERANCE = 1e-8


def check_images(batch: BoundBatch, spectrum: Spectrum, radii: Sequence[float], check: BoundCheck) -> dict[str, Tensor]:
    """Check and measure what holds at the images; only the softmax's part where an operation is not affine.

    Args:
        batch: B images.
        spectrum: of their Hessians.
        radii: lengths of the steps over which the Jacobian's change is checked.
        check: where failures are counted.

    Returns:
        Column → (B,), float64.
    """
    at, y = batch.at, batch.y
    layers = LayerwiseHessian.of(at, y, batch.calls.activations)
    softmax = layers.softmax_norm()
    check_softmax(softmax, at, y, check)
    columns = {"tightness_softmax": softmax / (2**0.5 * norms(error_vector(at.logits, y)))}
    if nonaffine_ops(at.logits, batch.calls):
        return columns
    start, majorant = batch.normal(Stream.LANCZOS_START), layers.majorant()
    columns |= _check_split(batch, layers, majorant, spectrum, check)
    elementwise, jacobian_norms = layers.elementwise(start, NORM_STEPS)
    columns |= {
        "tightness_layer_matrix": spectrum.norm / lanczos(majorant, start, SPECTRUM_STEPS).norm,
        "tightness_layer_elementwise": spectrum.norm / elementwise,
    }
    check_activations(layers, check)
    try:
        graph = lipschitz_graph(at.logits, batch.calls.activations)
    except NotImplementedError:
        return columns
    columns |= _check_data_free(layers, graph, spectrum, jacobian_norms[-1], check)
    steps = [r * direction for r in radii for direction in batch.directions(spectrum)]
    found = check_jacobian(batch, graph, steps, start, check)
    return columns | (_compositional(layers, graph, spectrum, jacobian_norms[-1], found) if found else {})


def _compositional(
    layers: LayerwiseHessian, graph: LipschitzGraph, spectrum: Spectrum, jacobian_norm: Tensor, c: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return what is measured over what the Jacobian's constants allow: its change, and the loss's Hessian."""
    error, softmax = norms(error_vector(layers.at.logits, layers.y)), layers.softmax_norm()
    lipschitz = graph.from_input()[graph.order[-1]]
    return {
        "tightness_jacobian": c["bend"] / (c["jacobian"] * error),
        "tightness_jacobian_anchored": c["bend"] / (c["jacobian_anchored"] * error),
        "tightness_compositional": spectrum.norm / (lipschitz**2 * softmax + c["jacobian"] * error),
        "tightness_compositional_anchored": spectrum.norm
        / (jacobian_norm**2 * softmax + c["jacobian_anchored"] * error),
    }


def _check_split(
    batch: BoundBatch, layers: LayerwiseHessian, majorant: Product, spectrum: Spectrum, check: BoundCheck
) -> dict[str, Tensor]:
    """Check (4.1), the exact split of uᵀ∇²f u, and (4.2), |uᵀ∇²f u| ≤ uᵀMu, for two vectors u per image."""
    image = torch.arange(len(batch.y), device=batch.y.device)
    columns: dict[str, Tensor] = {}
    for name, u in (
        ("top eigenvector", unit(spectrum.top_vector)),
        ("random vector", unit(batch.normal(Stream.LAYER_PROBE))),
    ):
        shares, form, bound = layers.shares(u), (u * batch.at.hvp(u)).sum(1), (u * majorant(u)).sum(1)
        noise = 1e-9 * bound + 1e-12 * spectrum.norm
        check.record(f"split by layer, {name}", image, Inequality((form - shares.sum(1)).abs(), 0 * form, noise))
        check.record(f"layer bound, {name}", image, Inequality(form.abs(), bound, noise))
        if name == "top eigenvector":
            columns = _relative_shares(shares) | {"tightness_layer": form.abs() / bound}
    return columns


def _relative_shares(shares: Tensor) -> dict[str, Tensor]:
    """Return every part of uᵀ∇²f u over the whole; they add up to 1 and may be negative."""
    whole = shares.sum(1, keepdim=True)
    parts = (shares / whole).unbind(1)
    return {f"curvature_share_{i}": p for i, p in enumerate(parts[:-1], 1)} | {"curvature_share_loss": parts[-1]}


def check_softmax(norm: Tensor, at: Expansion, y: Tensor, check: BoundCheck) -> None:
    """Check ‖H_z‖ ≤ √2‖p − e_y‖, ≤ 1/2 and ≤ 2(1 − p_y), all over the scale 1 − p_y (docs/theory.md, section 5).

    Args:
        norm: ‖H_z‖/scale, (B,).
        at: the expansion at the images.
        y: labels (B,).
        check: where failures are counted.
    """
    image = torch.arange(len(y), device=y.device)
    for name, right in {
        "‖H_z‖ ≤ √2‖p − e_y‖": 2**0.5 * norms(error_vector(at.logits, y)),
        "‖H_z‖ ≤ 1/2": 0.5 / at.scale,
        "‖H_z‖ ≤ 2(1 − p_y)": torch.full_like(norm, 2.0),
    }.items():
        check.record(name, image, Inequality(norm, right, 1e-9 * right))


def check_activations(layers: LayerwiseHessian, check: BoundCheck) -> None:
    """Check the softplus family's properties at every unit of every activation (docs/theory.md, section 7).

    Args:
        layers: the Hessian by activation.
        check: where failures are counted.
    """
    image = torch.arange(len(layers.y), device=layers.y.device)
    for activation, first, second in zip(
        layers.activations, layers.first_derivatives, layers.second_derivatives, strict=True
    ):
        if activation.beta is None:
            continue
        for name, excess in _activation_excess(activation, activation.beta, first, second).items():
            worst = excess.flatten(1).amax(1)
            claim = Inequality(worst, 0 * worst, torch.full_like(worst, ACTIVATION_TOLERANCE))
            check.record(f"activation: {name}", image, claim)


def _activation_excess(activation: Activation, beta: float, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Return by how much each property fails at every unit; at most 0 where it holds."""
    z = activation.before.detach()
    centered = activation.value(z) - activation.value(torch.zeros_like(z))
    return {
        "s' ≥ 0": -first,
        "s' ≤ 1": first - 1,
        "s'' ≥ 0": -second / beta,
        "s'' ≤ β/4": second / beta - 0.25,
        "s'' = β(1 − s')s'": (second / beta - (1 - first) * first).abs(),
        "s0 ≤ ReLU": beta * (centered - z.relu()),
        "s0 ≥ ReLU − log 2/β": beta * (z.relu() - centered) - math.log(2.0),
    }


def _check_data_free(
    layers: LayerwiseHessian, graph: LipschitzGraph, spectrum: Spectrum, jacobian_norm: Tensor, check: BoundCheck
) -> dict[str, Tensor]:
    """Check ‖J‖ ≤ L and (4.3), and measure (4.3) and the printed theorem."""
    lipschitz, curvature = layers.data_free(graph)
    scale = layers.at.scale
    error = norms(error_vector(layers.at.logits, layers.y))
    absolute, relative = lipschitz**2 / 2 + 2**0.5 * curvature, 2**0.5 * lipschitz**2 + curvature
    image = torch.arange(len(layers.y), device=layers.y.device)
    for name, left, right in (
        ("‖J‖ ≤ L", jacobian_norm, torch.full_like(error, lipschitz)),
        ("‖∇²f‖ ≤ L²/2 + √2B", spectrum.norm, absolute / scale),
        ("‖∇²f‖ ≤ (√2L² + B)‖p − e_y‖", spectrum.norm, relative * error),
    ):
        check.record(name, image, Inequality(left, right, 1e-9 * right.nan_to_num(posinf=0.0)))
    measured = spectrum.norm / norms(layers.at.gradient)
    printed = layers.printed(graph)
    return {
        "tightness_layer_data_free": spectrum.norm / torch.minimum(absolute / scale, relative * error),
        "ratio_theorem_1_pointwise": measured / printed["pointwise"],
        "ratio_theorem_1_max": measured / printed["max"],
        "ratio_lemma_1": measured / printed["lemma"],
    }
