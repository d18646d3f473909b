"""Projected gradient descent as the protocol has it: two losses, per-example steps, best point kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final, Literal

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, losses, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import ZERO_GRADIENT, Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Gt
from bench.core.torch_state import frozen_eval

LOSSES: Final[dict[str, Callable[..., Tensor]]] = {
    "ce": losses.log_odds_loss,
    "margin": losses.margin_loss,
}
PATH_LENGTH: Final = 2.5  # of all steps together, in radii; Madry et al. 2018, appendix


@attack(
    source="Madry et al. 2018, section 2.1; margin loss: Carlini and Wagner 2017, section V",
    version=3,
    extra={"zero_gradient": ZERO_GRADIENT},
    ranks=1,
    csv_interval=False,  # leaderboard.csv has one number per budget; the page and the JSON have the intervals
)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 40,
    rel_stepsize: Annotated[float, Gt(0)] | None = None,
    restarts: Annotated[int, Ge(1)] = 1,
    losses: Sequence[Literal["ce", "margin"]] = ("ce", "margin"),
    random_start: bool = True,
    final_step: bool = True,
    trace: Trace | None = None,
) -> Tensor:
    """Climb the loss inside the eps-ball and return the point with the largest margin loss met on the way.

    One step: x ← clip(x0 + P_eps(x + s·d − x0)), s = rel_stepsize·eps, d = ∇L/‖∇L‖₂ per example (l2)
    or sign ∇L (linf). "ce" climbs logsumexp_{k≠y} z_k − z_y, which has cross-entropy's direction without its
    underflow. An example stops once it is misclassified beyond rounding.

    From a random start the steps turn towards the gradient without getting there: on a linear loss, 40 steps end on the
    l2 sphere at 98.7 % of what is possible (tan(θ/2) = e^−2.5). So each run ends with one more point, the best in
    ball and box for a loss as linear as where the run ended; it costs one gradient and one pass, and is judged like
    every other point.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random starts, which belong to the example and not to the batch.
        steps: gradient steps per run; 40, the protocol's.
        rel_stepsize: length of a step over the radius; None is 2.5/steps (Madry et al. 2018, appendix).
        restarts: runs per loss.
        losses: any of "ce", "margin"; all are run, the best point is kept.
        random_start: uniform in the ball; False starts at x.
        final_step: try that point; False is the algorithm of the source, for comparison with other libraries.
        trace: receives `margin` (B,), the best margin loss; `zero_gradient` (B,), steps that had no gradient;
            `path` (runs, steps + 1, B), margin losses along each run, NaN once an example has stopped; `last`
            (B, C, H, W), where the steps of the last run ended, x for examples that stopped before.

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
    keys, check_every = randomness.example_keys(x, seed), search.check_interval(x)
    step_size = PATH_LENGTH * eps / max(steps, 1) if rel_stepsize is None else rel_stepsize * eps
    runs = [LOSSES[name] for name in losses for _ in range(restarts)]
    zero_gradient = torch.zeros(len(x), dtype=torch.long, device=x.device)
    last = x.clone()
    path = torch.full((len(runs), steps + 1, len(x)), torch.nan, dtype=x.dtype, device=x.device)

    with frozen_eval(model):
        model = folding.fold_constants(model, x, steps * len(runs))
        best = search.Best("pgd", model, x, y)
        for run, loss in enumerate(runs):
            rows = best.active()
            x0, label = x[rows], y[rows]
            x_adv = x0
            if random_start:
                delta = balls.random_perturbation(x0, keys[rows], Stream.PGD_START + run, eps, norm)
                x_adv = balls.into(x0, x0 + delta, eps, norm)
            for step in range(steps):
                if not len(rows):
                    break
                logits, _, grad = search.gradient(model, x_adv, partial(loss, y=label))
                path[run, step, rows] = best.update(rows, x_adv, logits)
                best.flag_nonfinite(rows, grad)
                direction = balls.ascent(grad, norm)
                zero_gradient[rows] += (direction.flatten(1) == 0).all(1)
                x_adv = balls.into(x0, x_adv + step_size * direction, eps, norm)
                if step % check_every == check_every - 1:
                    kept = search.kept_rows(~best.stopped[rows])
                    if kept is not None:
                        rows, x0, label, x_adv = rows[kept], x0[kept], label[kept], x_adv[kept]
            if len(rows):
                last[rows] = x_adv
                logits, _, grad = search.gradient(model, x_adv, partial(loss, y=label))
                path[run, steps, rows] = best.update(rows, x_adv, logits)
                if final_step:
                    best.flag_nonfinite(rows, grad)
                    end = balls.farthest(x0, grad, eps, norm)
                    best.update(rows, end, search.predict(model, end))
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero_gradient, path=path, last=last)
    return best.finalize()
