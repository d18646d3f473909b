"""Certified l2 radius from the margin and the network's data-free Lipschitz constant, and how loose it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, normal
from bench.core.decorators import evaluation
from bench.core.records import Column
from bench.numerics.autograd_graph import record_activations
from bench.numerics.derivatives import differentiate
from bench.numerics.hessian_terms import pushforward
from bench.numerics.lanczos import lanczos
from bench.numerics.lipschitz import LipschitzGraph, lipschitz_graph
from bench.numerics.micro_batches import join_columns, micro_batch_size
from bench.numerics.model_precision import differentiable_eval, logits_of

SOURCE = "Tsuzuku et al. 2018, Proposition 1, with sound norms (docs/theory.md, section 6)"
SLOPE_STEPS = 10
ROUNDING = 1 - 1e-9

COLUMNS = {
    "certified_radius": Column(
        "No perturbation below this l2 norm changes the prediction; 0 where it is wrong already", direction="higher",
        role="certified", params={"norm": "l2"},
        formula="min_k (z_y − z_k)/min(√2 L, ‖w_y − w_k‖·L_features)", source="docs/theory.md, section 6",
    ),
    "certified_radius_lipschitz": Column(
        "The same from the whole network's Lipschitz constant", direction="higher", formula="min_k (z_y − z_k)/(√2 L)",
        source="Tsuzuku et al. 2018, Proposition 1",
    ),
    "lipschitz_constant": Column(
        "Data-free Lipschitz constant L of image → logits, from true convolution norms; the same for every image",
        direction="lower", formula="L ≥ sup ‖∂z/∂x‖₂", source="docs/theory.md, section 6", role="lipschitz",
    ),
    "local_slope": Column(
        "Largest slope of the logits at the image; L over this is how loose the certificate is", formula="‖∂z/∂x‖₂",
        role="local_slope",
    ),
    "certificate_not_applicable": Column(
        "The operation whose Lipschitz constant is not known", kind="text", role="not_applicable",
        heading="The certificate",
    ),
}  # fmt: skip


@evaluation(source=SOURCE, columns=COLUMNS, chunk=500)
def certificate(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> dict[str, Tensor | list[str]]:
    """Certify an l2 radius for every image, in float64, from the network's operations alone.

    The Lipschitz constant is composed along the graph of the logits from sound norms (Fourier bound of the
    zero-padded convolutions; power iteration errs low and would certify too much). The radius is exact for a
    linear model and vacuous for the networks of the paper, where L is hundreds of times the largest local slope.

    Args:
        model: logits (B, K) from images in [0, 1]; a float64 copy is used.
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the start vectors that measure the local slope.

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
            constants = lipschitz_graph(logits, calls.activations)
        except NotImplementedError as unknown:
            return _not_applicable(y, str(unknown))
        parts = [
            _certify(ready, constants, a.double(), b, example_keys(a, seed))
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    return join_columns(parts) | {"certificate_not_applicable": [""] * len(y)}


def _not_applicable(y: Tensor, reason: str) -> dict[str, Tensor | list[str]]:
    missing = torch.full((len(y),), torch.nan, dtype=torch.float64, device=y.device)
    numbers = {name: missing for name, column in COLUMNS.items() if column.kind == "value"}
    return {**numbers, "certificate_not_applicable": [reason] * len(y)}


def _certify(model: nn.Module, constants: LipschitzGraph, x: Tensor, y: Tensor, keys: Tensor) -> dict[str, Tensor]:
    x = x.requires_grad_(True)
    logits = logits_of(model, x)
    into = constants.from_input()
    lipschitz = into[constants.order[-1]]
    z = logits.detach()
    margins = (z.gather(1, y[:, None]) - z).scatter(1, y[:, None], torch.inf)
    coarse = margins.amin(1) / (2**0.5 * lipschitz)
    slopes, last = torch.full_like(margins, 2**0.5 * lipschitz), constants.last_matrix()
    if last is not None:
        node, rows = last
        apart = torch.linalg.vector_norm(rows[y][:, None] - rows, dim=2)
        slopes = torch.minimum(slopes, apart * into[node])
    fine = (margins / slopes).scatter(1, y[:, None], torch.inf).amin(1)
    push = pushforward(logits, x)
    start = normal(keys, Stream.LANCZOS_START, (x[0].numel(),), x.dtype)
    slope = lanczos(lambda v: differentiate(logits, x, push(v)).flatten(1), start, SLOPE_STEPS).norm.sqrt()
    right = z.argmax(1) == y
    return {
        "certified_radius": torch.where(right, fine * ROUNDING, 0.0),
        "certified_radius_lipschitz": torch.where(right, coarse * ROUNDING, 0.0),
        "lipschitz_constant": torch.full_like(coarse, lipschitz),
        "local_slope": slope,
    }
