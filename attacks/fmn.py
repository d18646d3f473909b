"""FMN: the smallest perturbation by steps of gradient on a ball whose radius follows the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, losses, search
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.lockstep import MAX_POINTS
from bench.attacks.core.trace import Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Gt, Interval
from bench.core.records import Column
from bench.core.torch_state import frozen_eval

LAST_GAMMA: Final = 0.001  # the radius moves by this share in the last step
LAST_STEP: Final = 0.01  # the last gradient step, as a share of the first
NEARER: Final = 1e-6  # share by which a point must be nearer than the one before: more than rounding
EXTRA: Final = {
    "nearest": Column(
        "Size of the smallest adversarial perturbation met, inside the ball or not; missing if none was met.",
        unit="norm on [0, 1] pixels",
        direction="higher",
        aggregate="mean",
        role="breaking",
        shown=False,
    ),
    **{
        f"{way}s": Column(
            f"Passes {way} of the search for this image; what a batch costs beside it is not in it: the trial of the "
            "folded network on two images, and the verdict.",
            kind="count",
            direction="none",
            params={"passes": way},
            shown=False,
        )
        for way in ("forward", "backward")
    },
}


@dataclass(frozen=True, slots=True)
class FmnParams:
    """What stays the same during a search; see `fmn`."""

    steps: int
    eps: float
    norm: str
    first_step: float
    gamma: float


@attack(
    source="Pintor et al. 2021, 'Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints', algorithm 1",
    version=2,
    extra=EXTRA,
)
def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 100,
    first_step: Annotated[float, Gt(0)] = 1.0,
    gamma: Annotated[float, Interval(gt=0, lt=1)] = 0.05,
    trace: Trace | None = None,
) -> Tensor:
    """Run FMN from the image and return the adversarial point nearest to it if that lies in the ball, (B, C, H, W).

    One step, with m the margin loss max_{k≠y} z_k − z_y, q the dual norm and ε the radius of the current ball: where
    m > 0, ε ← min((1 − γ) ε, smallest norm met); where m ≤ 0, ε ← (1 + γ) ε, or, as long as no adversarial point was
    met, the larger one of that and ‖δ‖ + |m|/‖∇m‖_q; δ ← clip(project(δ + α ∇m/‖∇m‖₂, ε)). α falls from `first_step`
    to a hundredth of it, γ to 0.001, both along a cosine. Deterministic. What differs from the paper: what of ∇m leads
    out of the box counts as 0, and a radius that was too small grows, so that the clip cannot hold the search back in
    front of the boundary; a point that is misclassified by no more than rounding does not shrink the ball.

    The search does not know eps: one run gives the robust accuracy at every budget. It finds less than Auto-PGD where
    the margin bends sharply (docs/measured.md), so it never stands alone for a robust accuracy.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius within which a point counts, ≥ 0.
        norm: "l2" or "linf".
        seed: not used; every attack has it.
        steps: gradient steps.
        first_step: α of the first step, an l2 norm on [0, 1] pixels; 1 from the paper.
        gamma: largest share by which the radius moves in a step; 0.05 from the paper.
        trace: receives `margin` (B,), the best margin loss inside the ball; `nearest` (B,), the smallest norm of a
            misclassified point met, NaN if none; `forwards` and `backwards` (B,), the passes that each image took.

    Returns:
        The nearest misclassified points where they lie inside the ball, else the points inside it with the largest
        margin loss met, (B, C, H, W).

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("fmn", norm)
    params = FmnParams(steps, eps, norm, first_step, gamma)
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    closest = x.clone()
    with frozen_eval(model):
        model = folding.fold_constants(model, x, steps)
        best = search.Best("fmn", model, x, y)
        nearest[best.margin > 0] = 0
        searched = ~best.stopped
        for rows in best.batches(MAX_POINTS):
            closest[rows], nearest[rows] = _descend(model, x[rows], rows, best, params)
    if trace is not None:
        draws = model.draws if isinstance(model, RandomisedModel) else 1
        backwards = draws * (steps + 1) * searched.long()
        trace.update(margin=best.margin, nearest=torch.where(nearest.isfinite(), nearest, torch.nan))
        trace.update(forwards=backwards + draws, backwards=backwards)
    return torch.where(balls.per_example(nearest <= eps, x), closest, best.finalize())


def _descend(model: nn.Module, x0: Tensor, rows: Tensor, best: search.Best, p: FmnParams) -> tuple[Tensor, Tensor]:
    """Return the nearest misclassified points (n, C, H, W) and their distances (n,), infinity where none was met.

    A point that is misclassified by no more than rounding counts for `best` alone.
    """
    label, x_adv, closest = best.y[rows], x0, x0
    nearest = torch.full_like(label, torch.inf, dtype=x0.dtype)
    radius = torch.zeros_like(nearest)
    for i in range(p.steps + 1):
        logits, margin, grad = search.gradient(model, x_adv, partial(losses.margin_loss, y=label))
        best.flag_nonfinite(rows, grad)
        distance = balls.size(x_adv - x0, p.norm)
        best.update(rows, x_adv, logits, distance <= p.eps)
        rounding = search.slack(logits)
        wrong = margin > rounding
        nearer = wrong & (distance < (1 - NEARER) * nearest)
        closest = torch.where(balls.per_example(nearer, x0), x_adv, closest)
        nearest = torch.where(nearer, distance, nearest)
        if i == p.steps:
            break

        anneal = (1 + math.cos(math.pi * i / p.steps)) / 2
        gamma = LAST_GAMMA + (p.gamma - LAST_GAMMA) * anneal
        step = p.first_step * (LAST_STEP + (1 - LAST_STEP) * anneal)
        grad = torch.where((grad > 0) & (x_adv >= 1) | (grad < 0) & (x_adv <= 0), 0, grad)  # out of the box
        slope = balls.size(grad, "l2") if p.norm == "l2" else grad.flatten(1).abs().sum(1)
        to_boundary = distance + (margin.abs() + 2 * rounding) / slope.clamp_min(torch.finfo(slope.dtype).tiny)
        wider = (1 + gamma) * radius
        wider = torch.where(nearest.isfinite(), wider, torch.maximum(wider, to_boundary))
        radius = torch.where(wrong, torch.minimum((1 - gamma) * radius, nearest), wider)
        delta = x_adv - x0 + step * balls.ascent(grad, "l2")
        x_adv = (x0 + balls.project(delta, radius, p.norm)).clamp_(0, 1)
    return closest, nearest
