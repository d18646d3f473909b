"""Certified l2 radius from the margin and the network's data-free Lipschitz constant, and how loose it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, normal
from bench.core.decorators import evaluation
from bench.core.records import Column
from bench.numerics.anchors import slopes_at_images
from bench.numerics.autograd_graph import Activation, Node, record_activations
from bench.numerics.derivatives import differentiate
from bench.numerics.hessian_terms import pushforward
from bench.numerics.lanczos import lanczos
from bench.numerics.lipschitz import LipschitzGraph, lipschitz_graph
from bench.numerics.micro_batches import join_columns, micro_batch_size
from bench.numerics.model_precision import differentiable_eval, logits_of

SOURCE = "Tsuzuku et al. 2018, Proposition 1, with sound norms (docs/theory.md, section 6)"
JACOBIAN_NORM_STEPS = 10  # Lanczos products for ‖∂z/∂x‖₂
ROUNDING = 1 - 1e-9  # of the margins in float64

COLUMNS = {
    "certified_radius": Column(
        "No perturbation below this l2 norm changes the prediction; 0 where it is wrong already, √d at most",
        direction="higher",
        role="certified",
        params={"norm": "l2"},
        formula="min_k (z_y − z_k)/min(√2 L, ‖w_y − w_k‖·L_features), or certified_radius_curvature if that is larger",
        source="docs/theory.md, section 6",
    ),
    "certified_radius_lipschitz": Column(
        "The same from the whole network's Lipschitz constant",
        direction="higher",
        formula="min_k (z_y − z_k)/(√2 L)",
        source="Tsuzuku et al. 2018, Proposition 1",
    ),
    "certified_radius_curvature": Column(
        "The same from the slopes at the image and the Lipschitz constant of the Jacobian from there on",
        direction="higher",
        formula="min_k 2m_k/(‖∇m_k‖ + √(‖∇m_k‖² + 2 c_k m_k)), m_k = z_y − z_k",
        source="after Entesari, Sharifi, Fazlyab 2024 (docs/theory.md, section 6)",
    ),
    "jacobian_lipschitz": Column(
        "Data-free Lipschitz constant of the Jacobian of image → logits, missing where it jumps; the same for all",
        direction="lower",
        formula="c ≥ sup ‖∂z/∂x(x) − ∂z/∂x(x')‖₂ / ‖x − x'‖₂",
        source="Entesari, Sharifi, Fazlyab 2024 (docs/theory.md, section 6)",
    ),
    "jacobian_lipschitz_anchored": Column(
        "Lipschitz constant of the Jacobian from the image on, missing where it jumps: at most the data-free one",
        direction="lower",
        formula="c(x) ≥ sup_{x'} ‖∂z/∂x(x') − ∂z/∂x(x)‖₂ / ‖x' − x‖₂",
        source="after Entesari, Sharifi, Fazlyab 2024, anchored (docs/theory.md, section 6)",
    ),
    "lipschitz_constant": Column(
        "Data-free Lipschitz constant L of image → logits, from true convolution norms; the same for every image",
        direction="lower",
        formula="L ≥ sup ‖∂z/∂x‖₂",
        source="docs/theory.md, section 6",
        role="lipschitz",
    ),
    "local_slope": Column(
        "Largest slope of the logits at the image; L over this is how loose the certificate is",
        formula="‖∂z/∂x‖₂",
        role="local_slope",
    ),
    "certificate_not_applicable": Column(
        "The operation whose Lipschitz constant is not known",
        kind="text",
        role="not_applicable",
        heading="The certificate",
    ),
}


@evaluation(source=SOURCE, columns=COLUMNS, version=4, chunk=500)
def certificate(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> dict[str, Tensor | list[str]]:
    """Certify an l2 radius for every image, in float64, from the network's operations alone.

    The Lipschitz constant is composed along the graph of the logits from sound norms (Fourier bound of the
    zero-padded convolutions; power iteration errs low and would certify too much). The radius is exact for a
    linear model and vacuous for the networks of the paper, where L is hundreds of times the largest local slope.

    Claim: no x' with ‖x' − x‖₂ < `certified_radius` has another prediction than x. Holds when: the model is the
    network whose graph was read, in real arithmetic. Measured by: constants that err high (`op_lipschitz`).
    Tolerance: radii are lowered by 1e-9 of themselves for rounding.

    Args:
        model: logits (B, K) from images in [0, 1]; a float64 copy is used.
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the start vectors that measure the local slope.

    Returns:
        Column → (B,) float64, or B strings; NaN and the reason where no constant is known.

    Raises:
        BenchError: the model computes in another dtype than its inputs'.
    """
    size = micro_batch_size(x)
    with differentiable_eval(model, "float64") as ready:
        probe = x[:1].double().requires_grad_(True)
        with record_activations(ready) as calls:
            logits = logits_of(ready, probe)
        if not logits.requires_grad:
            return _not_applicable(y, "no gradient")
        try:
            graph = lipschitz_graph(logits, calls.activations)
        except NotImplementedError as unknown:
            return _not_applicable(y, str(unknown))
        parts = [
            _certify(ready, graph, a.double(), b, example_keys(a, seed))
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    return join_columns(parts) | {"certificate_not_applicable": [""] * len(y)}


def _not_applicable(y: Tensor, reason: str) -> dict[str, Tensor | list[str]]:
    """Return the columns of a model without a certificate: missing numbers and the reason."""
    missing = torch.full((len(y),), torch.nan, dtype=torch.float64, device=y.device)
    numbers = {name: missing for name, column in COLUMNS.items() if column.kind == "value"}
    return {**numbers, "certificate_not_applicable": [reason] * len(y)}


def certified_radii(logits: Tensor, y: Tensor, graph: LipschitzGraph) -> tuple[Tensor, Tensor]:
    """Return r₁ = min_k (z_y − z_k)/(√2·L) and r₂ = min_k (z_y − z_k)/min(√2·L, ‖w_y − w_k‖·L_features), (B,) each.

    Infinite for a constant network.

    Tsuzuku et al. 2018, Proposition 1; docs/theory.md, section 6. Negative where the prediction is wrong.

    Args:
        logits: z, (B, K), detached.
        y: labels (B,).
        graph: Lipschitz constants of the network.
    """
    from_input = graph.from_input()
    lipschitz = 2**0.5 * from_input[graph.order[-1]]
    margins = (logits.gather(1, y[:, None]) - logits).scatter(1, y[:, None], torch.inf)
    constants, last = torch.full_like(margins, lipschitz), graph.last_matrix()
    if last is not None:
        features, rows = last
        row_distances = torch.linalg.vector_norm(rows[y][:, None] - rows, dim=2)
        constants = torch.minimum(constants, row_distances * from_input[features])
    return margins.amin(1) / lipschitz, (margins / constants).scatter(1, y[:, None], torch.inf).amin(1)


@dataclass(frozen=True)
class JacobianConstants:
    """Lipschitz constants of Jacobians that hold from B images on, (B,) each; infinite where the Jacobian jumps.

    Attributes:
        logits: of image → logits.
        features: of image → features of the last matrix; None without one.
    """

    logits: Tensor
    features: Tensor | None

    @classmethod
    def anchored(cls, graph: LipschitzGraph, activations: list[Activation], x: Tensor) -> JacobianConstants:
        """Return the constants anchored at images.

        Args:
            graph: Lipschitz constants of the network.
            activations: of the forward pass of the images, in order.
            x: images (B, C, H, W).
        """
        output, last = graph.order[-1], graph.last_matrix()
        smooth = math.isfinite(graph.jacobian_from_input()[output])
        slopes = slopes_at_images(graph, activations, x) if smooth else [{}] * len(x)
        found = [graph.jacobian_from_input(at) for at in slopes]

        def constants(node: Node) -> Tensor:
            return torch.tensor([constant[node] for constant in found], dtype=x.dtype, device=x.device)

        return cls(constants(output), None if last is None else constants(last[0]))


def curvature_radii(logits: Tensor, x: Tensor, y: Tensor, graph: LipschitzGraph, c: JacobianConstants) -> Tensor:
    """Return min_k 2m_k/(‖∇m_k‖ + √(‖∇m_k‖² + 2 c_k m_k)) with m_k = z_y − z_k, (B,); 0 where one is not positive.

    m_k(x + ε) ≥ m_k − ‖∇m_k‖r − c_k r²/2 for ‖ε‖ ≤ r, c_k = min(√2·c, ‖w_y − w_k‖·c_features); the radius is where
    the right side is 0. c is the Lipschitz constant of the Jacobian from x on.

    Args:
        logits: z, (B, K), with their graph.
        x: images (B, C, H, W) that the graph leads to.
        y: labels (B,).
        graph: Lipschitz constants of the network.
        c: of the Jacobians, from these images on.
    """
    last, z, radii = graph.last_matrix(), logits.detach(), []
    for k in range(z.shape[1]):
        seed = torch.zeros_like(z).scatter(1, y[:, None], 1.0)
        seed[:, k] -= 1
        constant = 2**0.5 * c.logits
        if last is not None and c.features is not None:
            constant = torch.minimum(constant, (last[1][y] - last[1][k]).norm(dim=1) * c.features)
        slope = differentiate(logits, x, seed).flatten(1).norm(dim=1)
        margin = (z * seed).sum(1)
        radius = 2 * margin / (slope + (slope.square() + 2 * constant * margin.clamp_min(0)).sqrt())
        radii.append(torch.where(y == k, torch.inf, radius.nan_to_num(nan=0.0)))
    return torch.stack(radii, 1).amin(1).clamp_min(0)


def _certify(model: nn.Module, graph: LipschitzGraph, x: Tensor, y: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Return the numeric columns of a micro-batch x (B, C, H, W)."""
    x = x.requires_grad_(True)
    with record_activations(model) as calls:
        logits = logits_of(model, x)
    z = logits.detach()
    coarse, fine = certified_radii(z, y, graph)
    bend = graph.jacobian_from_input()[graph.order[-1]]
    anchored = JacobianConstants.anchored(graph, calls.activations, x)
    curved = curvature_radii(logits, x, y, graph, anchored)
    push = pushforward(logits, x)
    start = normal(keys, Stream.LANCZOS_START, (x[0].numel(),), x.dtype)
    squared = lanczos(lambda v: differentiate(logits, x, push(v)).flatten(1), start, JACOBIAN_NORM_STEPS)
    correct, diameter = z.argmax(1) == y, x[0].numel() ** 0.5
    coarse, fine = (r.masked_fill(r.isposinf(), diameter) for r in (coarse, fine))
    fine = torch.maximum(fine, curved.clamp_max(diameter))
    return {
        "certified_radius": torch.where(correct, fine * ROUNDING, 0.0),
        "certified_radius_lipschitz": torch.where(correct, coarse * ROUNDING, 0.0),
        "certified_radius_curvature": torch.where(correct, curved.clamp_max(diameter) * ROUNDING, 0.0),
        "jacobian_lipschitz": torch.full_like(coarse, bend if math.isfinite(bend) else torch.nan),
        "jacobian_lipschitz_anchored": torch.where(anchored.logits.isfinite(), anchored.logits, torch.nan),
        "lipschitz_constant": torch.full_like(coarse, graph.from_input()[graph.order[-1]]),
        "local_slope": squared.norm.sqrt(),
    }
