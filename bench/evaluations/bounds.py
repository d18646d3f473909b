"""The theorems as assertions: what must hold at every image is checked, in float64, and failures are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import example_keys
from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.ranges import Ge, Gt
from bench.numerics.bounds.batch import BoundBatch
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.bounds.columns import COLUMNS
from bench.numerics.bounds.image_checks import check_images
from bench.numerics.bounds.segment_checks import SIDES, check_segments
from bench.numerics.engine_check import checked_engine
from bench.numerics.model_precision import differentiable_eval

SOURCE = "Srinivas et al. 2022, Propositions 1 and 2, corrected and sharpened (docs/theory.md)"
# Numbers held at once: a segment keeps two vectors per node.
MEMORY = 1 << 26
MAX_IMAGES = 16


@evaluation(source=SOURCE, columns=COLUMNS, version=3, chunk=16, gradients=True)
def bounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    radius: Sequence[Annotated[float, Gt(0)]] = (0.01, 0.1),
    max_nodes: Annotated[int, Ge(3)] = 257,
) -> dict[str, Tensor | list[str]]:
    """Assert what the theory says of every image, and measure how tight it is. Derivations: docs/theory.md.

    Along segments in one random direction and along the Hessian's top eigenvector (`_worst`): Propositions 1
    and 2, the Taylor remainder and the growth of the gradient, with the integral and with the supremum of the
    normalised curvature, with ε0 = 0 and 1e-6, and the printed forms. At the image: the exact split of the
    Hessian by activation, |uᵀHu| ≤ uᵀMu, the data-free bounds, properties of the softmax and of the activations, and
    how fast the Jacobian changes, with Lipschitz constants composed from weights alone and anchored at the image.

    A pass on a grid is a proof up to rounding for the supremum forms (more nodes only raise the right side); a
    failure makes the grid finer. A failure on a grid that still changes at `max_nodes` is undecided. What the
    paper states as approximations, and its Theorem 1 and Lemma 1, which are false as printed, are ratios, not
    assertions. Models with nonsmooth operations (ReLU, max-pool) are not assessable: `bound_violations` is then
    missing.

    Args:
        model: logits (B, K) from images in [0, 1]; a float64 copy is used.
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the random directions; each image's own, whatever else is in the batch.
        radius: l2 lengths of the segments, in pixel units.
        max_nodes: nodes per segment at most.

    Returns:
        Column → (B,), float64, or B strings; see `bench.numerics.bounds.columns`.

    Raises:
        UsageError: no radius, or one that is not positive.
        BenchError: a logit, gradient or product is not finite.
    """
    radii = sorted(set(map(float, radius)))
    if not radii or not 0 < radii[0] <= radii[-1] < float("inf"):
        raise UsageError(f"bounds radius: expected positive numbers, got {list(radius)}. Give radii like 0.1.")
    numbers_per_image = len(SIDES) * len(radii) * max_nodes * 2 * x[0].numel()
    size = max(1, min(MAX_IMAGES, MEMORY // numbers_per_image))
    with differentiable_eval(model, "float64") as ready, checked_engine(ready, x[:2].double(), y) as fast:
        parts = [
            _check(BoundBatch.expand(ready, a.double(), b, example_keys(a, seed)), radii, max_nodes)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    columns = {name: _join([p[name] for p in parts]) for name in parts[0]}
    return columns | {"bounds_fast_engine": torch.full_like(y, fast, dtype=torch.bool)}


def _join(parts: Sequence[Tensor | list[str]]) -> Tensor | list[str]:
    """Return one column of consecutive parts of a batch, joined in order; a ratio to a bound of 0 is missing."""
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if tensors:
        joined = torch.cat(tensors)
        return joined.masked_fill(joined.isinf(), torch.nan) if joined.is_floating_point() else joined
    return [text for p in parts for text in p if isinstance(text, str)]


def _check(batch: BoundBatch, radii: Sequence[float], max_nodes: int) -> dict[str, Tensor | list[str]]:
    """Return all columns of a batch of images."""
    y = batch.y
    if batch.not_applicable:
        return _not_applicable(y, batch.not_applicable)
    check, spectrum = BoundCheck.empty(y), batch.spectrum()
    measured = check_segments(batch, spectrum, radii, max_nodes, check) | check_images(batch, spectrum, radii, check)
    return {
        "bound_violations": check.violations.double(),
        "bounds_undecided": check.undecided.double(),
        "bounds_applicable": torch.ones_like(y, dtype=torch.bool),
        "bounds_not_applicable": [""] * len(y),
        "bound_violation": check.first_violation,
        **measured,
    }


def _not_applicable(y: Tensor, reason: str) -> dict[str, Tensor | list[str]]:
    """Return the columns of a model without curvature: missing, never a pass."""
    missing = torch.full((len(y),), torch.nan, dtype=torch.float64, device=y.device)
    return {
        "bound_violations": missing,
        "bounds_undecided": missing,
        "bounds_applicable": torch.zeros_like(y, dtype=torch.bool),
        "bounds_not_applicable": [reason] * len(y),
        "bound_violation": [""] * len(y),
    }
