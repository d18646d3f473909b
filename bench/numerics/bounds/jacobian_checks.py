"""Assert that the Jacobian changes no faster than its composed Lipschitz constants say.

Claim: with c for the whole network, and with c(x) ≤ c anchored at the image, ‖J(x') − J(x)‖ ≤ c·‖x' − x‖ for every
x', hence also ‖Σ_k q_k∇²z_k(x)‖ ≤ c·‖q‖ (docs/theory.md, section 6). Holds when: affine operations and activations of
the softplus family alone lie between image and logits. Measured by: (J(x') − J(x))ᵀq exactly; the other left side by
Lanczos, which errs low. Tolerance: 1e-9 relative, and 1e-12 of what a left side is a difference of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.numerics.anchors import slopes_at_images
from bench.numerics.bounds.batch import BoundBatch
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.derivatives import differentiate
from bench.numerics.hessian_terms import error_vector, network_term
from bench.numerics.inequalities import Inequality
from bench.numerics.lanczos import lanczos
from bench.numerics.lipschitz import LipschitzGraph
from bench.numerics.model_precision import logits_of
from bench.numerics.vectors import norms

NORM_STEPS = 10
RELATIVE = 1e-9
ABSOLUTE = 1e-12


def check_jacobian(
    batch: BoundBatch, graph: LipschitzGraph, steps: Sequence[Tensor], start: Tensor, check: BoundCheck
) -> dict[str, Tensor]:
    """Check both constants at the images and from there to other points; nothing where the Jacobian may jump.

    Args:
        batch: B images.
        graph: constants of their network.
        steps: x' − x of every image, (B, d) each.
        start: start vectors of Lanczos, (B, d).
        check: where failures are counted.

    Returns:
        "jacobian" and "jacobian_anchored": the constants c and c(x), (B,) float64; "bend": ‖Σq_k∇²z_k‖/scale. Empty
        where c is infinite.
    """
    at, output = batch.at, graph.order[-1]
    error = error_vector(at.logits, batch.y)
    size, common = norms(error), graph.jacobian_from_input()[output]
    if math.isinf(common):
        return {}
    slopes = slopes_at_images(graph, batch.calls.activations, at.x)
    found = [graph.jacobian_from_input(one)[output] for one in slopes]
    anchored = torch.tensor(found, dtype=size.dtype, device=size.device)
    constants = {"c": torch.full_like(size, common), "c(x)": anchored}
    bend = lanczos(network_term(at, batch.y), start, NORM_STEPS).norm
    before = differentiate(at.logits, at.x, error).flatten(1)
    for name, c in constants.items():
        _record(f"‖Σq_k∇²z_k‖ ≤ {name}‖q‖", bend, c * size, 0 * bend, check)
    for step in steps:
        x = (at.x.detach().flatten(1) + step).view_as(at.x).requires_grad_(True)
        after = differentiate(logits_of(batch.model, x), x, error).flatten(1)
        noise = ABSOLUTE * (norms(before) + norms(after))
        for name, c in constants.items():
            _record(f"‖ΔJᵀq‖ ≤ {name}‖ε‖‖q‖", norms(after - before), c * norms(step) * size, noise, check)
    return {"jacobian": constants["c"], "jacobian_anchored": anchored, "bend": bend}


def _record(name: str, left: Tensor, right: Tensor, noise: Tensor, check: BoundCheck) -> None:
    """Count the failures of left ≤ right, (B,)."""
    image = torch.arange(len(left), device=left.device)
    check.record(name, image, Inequality(left, right, RELATIVE * right + noise))
