"""Assert Propositions 1 and 2 and the Taylor remainder along segments from every image, and measure their tightness.

Claim: `segment_inequalities`, with ε0 = 0 and with ε0 = 1e-6. Holds when: the loss is twice continuously
differentiable along the segment. Measured by: nodes refined until the sums are settled; more nodes only raise the
right side of the supremum forms. Tolerance: that of `segment_inequalities`. A failure on a segment that is not settled
counts as undecided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.numerics.bounds.batch import BoundBatch
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.derivatives import expand
from bench.numerics.inequalities import Inequality, approximations, segment_inequalities
from bench.numerics.lanczos import Spectrum
from bench.numerics.micro_batches import micro_batch_size
from bench.numerics.segments import SegmentGrids, trace_segments
from bench.numerics.vectors import norms, require_finite

EPS0 = (0.0, 1e-6)  # without, and with the constant of the authors' code
SIDES = ("", "_worst")  # suffixes: a random direction, the Hessian's top eigenvector
# Beyond this self-check gradient and Hessian do not belong together, and the right sides mean nothing.
MAX_SELF_CHECK = 0.05


def check_segments(
    batch: BoundBatch, spectrum: Spectrum, radii: Sequence[float], max_nodes: int, check: BoundCheck
) -> dict[str, Tensor]:
    """Check and measure the segments of every image, one per radius and direction.

    Args:
        batch: B images.
        spectrum: of their Hessians.
        radii: lengths of the segments, ascending.
        max_nodes: nodes per segment at most.
        check: where failures are counted.

    Returns:
        Column → (B,), float64.
    """
    y, at = batch.y, batch.at
    count = len(y)
    each = len(SIDES) * len(radii)
    image = torch.arange(count, device=y.device).repeat_interleave(each)
    direction = torch.stack(batch.directions(spectrum), 1).repeat(1, len(radii), 1).flatten(0, 1)
    length = torch.tensor(radii, dtype=at.x.dtype, device=y.device).repeat_interleave(len(SIDES)).repeat(count)
    start = at.x.detach().flatten(1)[image]

    def oracle(points: Tensor, segment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = points.view(-1, *at.x.shape[1:])
        return loss_to_second_order(batch.model, x, y[image[segment]], direction[segment])

    grids = trace_segments(oracle, start, direction, length, max_nodes=max_nodes, demand=_any_fails)
    settled, error = grids.settled(), grids.self_check()
    names = [f"{r:g}{side}" for r in radii for side in SIDES]
    _record_inequalities(grids, image, names, check)
    self_check = Inequality(error, torch.full_like(error, MAX_SELF_CHECK), 0 * error)
    check.record("gradient against integrated Hessian", image, self_check, torch.zeros_like(settled))
    curvature = (spectrum.norm / norms(at.gradient))[image]
    values = _tightness(grids) | {f"ratio_{k}": v for k, v in approximations(grids, curvature).items()}
    columns = {f"{k}_{name}": v[i::each] for k, v in values.items() for i, name in enumerate(names)}
    return columns | {
        "bounds_nodes": grids.nodes.view(count, each).amax(1).double(),
        "bounds_unsettled": (~settled).view(count, each).sum(1).double(),
        "fundamental_theorem_error": error.view(count, each).amax(1),
    }


def _record_inequalities(grids: SegmentGrids, image: Tensor, names: Sequence[str], check: BoundCheck) -> None:
    """Count the failures of every inequality; segments come image by image, in the order of the names."""
    settled, each = grids.settled(), len(names)
    for eps0 in EPS0:
        for claim, all_segments in segment_inequalities(grids, eps0).items():
            for i, name in enumerate(names):
                part = slice(i, None, each)
                one = Inequality(all_segments.left[part], all_segments.right[part], all_segments.tolerance[part])
                check.record(f"{claim} (ε0 = {eps0:g}) at radius {name}", image[part], one, settled[part])


def loss_to_second_order(
    model: nn.Module, points: Tensor, y: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return f (N,), ∇f (N, d) and ∇²f·direction (N, d) at points.

    Args:
        model: logits (N, K) from images, in eval mode.
        points: images (N, C, H, W).
        y: labels (N,).
        direction: unit vectors (N, d).

    Raises:
        BenchError: a logit, a gradient or a product is not finite.
    """
    parts = []
    size = micro_batch_size(points)
    for p, label, v in zip(points.split(size), y.split(size), direction.split(size), strict=True):
        at = expand(model, p, label)
        scale = at.scale[:, None]
        product = at.hvp(v) * scale
        require_finite("product of the loss's Hessian", product)
        parts.append((at.loss, at.gradient * scale, product))
    loss, gradient, product = (torch.cat(column) for column in zip(*parts, strict=True))
    return loss, gradient, product


def _any_fails(grids: SegmentGrids) -> Tensor:
    """Return the segments on which an inequality fails, (S,): more nodes may resolve it."""
    claims = [c.violated for eps0 in EPS0 for c in segment_inequalities(grids, eps0).values()]
    return torch.stack(claims).any(0)


def _tightness(grids: SegmentGrids) -> dict[str, Tensor]:
    """Return measured/bound of the inequalities on the page, ε0 = 0, (S,) each."""
    claims = segment_inequalities(grids, 0.0)
    shown = {
        "tightness_gradient": "gradient_integral",
        "tightness_gradient_printed": "gradient_printed",
        "tightness_loss": "loss_integral",
        "tightness_loss_printed": "loss_printed",
        "tightness_remainder": "remainder_integral",
    }
    return {column: claims[name].tightness for column, name in shown.items()}
