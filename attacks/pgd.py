"""Projected gradient descent, as the protocol wants it: two losses, per-example steps, best point kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, frozen, losses, randomness, search
from bench.attacks.core.trace_columns import ZERO_GRADIENT
from bench.core.decorators import attack

LOSSES: Final[dict[str, Callable[..., Tensor]]] = {
    "ce": losses.log_odds_loss,
    "margin": losses.margin_loss,
}


@attack(
    source="Madry et al. 2018, section 2.1; margin loss: Carlini and Wagner 2017, section V",
    extra={"zero_gradient": ZERO_GRADIENT},
    ranks=1,
    csv_interval=False,  # leaderboard.csv has one number per budget; the page and the JSON have the intervals
)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    steps: int = 40,
    relative_step: float = 2.5,
    restarts: int = 1,
    losses: Sequence[str] = ("ce", "margin"),
    random_start: bool = True,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Climb the loss inside the eps-ball and return the point with the largest margin loss met on the way.

    One step: x ← clip(x0 + P_eps(x + s·d − x0)), s = relative_step·eps/steps, d = ∇L/‖∇L‖₂ per example (l2)
    or sign ∇L (linf). "ce" climbs logsumexp_{k≠y} z_k − z_y, which has cross-entropy's direction without its
    underflow. An example stops once it is misclassified beyond rounding.

    Args:
        model: logits (B, K) of x (B, C, H, W) in [0, 1].
        x: clean images; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random starts, which belong to the example and not to the batch.
        steps: 40, the protocol's.
        relative_step: length of the whole path over the radius; 2.5 from Madry et al. 2018, appendix.
        restarts: runs per loss.
        losses: any of "ce", "margin"; all are run, the best point is kept.
        random_start: uniform in the ball; False starts at x.
        trace: is given `margin` (B,), the best margin loss; `zero_gradient` (B,), steps that had no gradient;
            `path` (runs, steps + 1, B), margin losses along each run, NaN once an example has stopped; `last`
            (B, C, H, W), where the last run ended, x for examples that stopped before.

    Returns:
        x_adv (B, C, H, W), inside the ball up to float rounding and inside the box.

    Raises:
        ValueError: unknown norm or loss.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("pgd", norm)
    unknown = set(losses) - LOSSES.keys()
    if unknown or not losses:
        raise ValueError(f"pgd: expected losses among {sorted(LOSSES)}, got {list(losses)!r}. Name at least one.")
    keys, every = randomness.example_keys(x, seed), search.check_interval(x)
    runs = [LOSSES[name] for name in losses for _ in range(restarts)]
    zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
    last = x.clone()
    path = torch.full((len(runs), steps + 1, len(x)), torch.nan, dtype=x.dtype, device=x.device)

    with frozen.frozen_eval(model):
        model = folding.fold_constants(model, x, steps * len(runs))
        best = search.Best("pgd", model, x, y)
        for run, loss in enumerate(runs):
            rows = best.open()
            x0, goal = x[rows], y[rows]
            point = x0
            if random_start:
                point = balls.into(x0, x0 + balls.random_perturbation(x0, keys[rows], run, eps, norm), eps, norm)
            for step in range(steps):
                if not len(rows):
                    break
                logits, _, slope = search.gradient(model, point, partial(loss, y=goal))
                path[run, step, rows] = best.see(rows, point, logits)
                best.note(rows, slope)
                direction = balls.ascent(slope, norm)
                zero[rows] += (direction.flatten(1) == 0).all(1)
                point = balls.into(x0, point + relative_step * eps / steps * direction, eps, norm)
                if step % every == every - 1:
                    keep = ~best.stopped[rows]
                    rows, x0, goal, point = rows[keep], x0[keep], goal[keep], point[keep]
            if len(rows):
                last[rows] = point
                path[run, steps, rows] = best.see(rows, point, search.predict(model, point))
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero, path=path, last=last)
    return best.result()
