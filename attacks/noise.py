"""Random draws in the ball: the weakest attack, which no honest gradient attack may lose to."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from bench.attacks.core import balls, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge
from bench.core.torch_state import frozen_eval


@attack(
    source="Carlini et al. 2019, 'On Evaluating Adversarial Robustness', section 4.3 (brute-force check)",
    gradients=False,
)
def noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    draws: Annotated[int, Ge(1)] = 100,
    trace: Trace | None = None,
) -> Tensor:
    """Return the worst of `draws` random points: even draws uniform in the ball, odd ones on its surface.

    An example stops once it is misclassified beyond rounding.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the draws, which belong to the example.
        draws: points tried; 100, enough that a defense which only bends gradients is seen.
        trace: receives `margin` (B,), the largest margin loss met.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits.
    """
    balls.check_norm("noise", norm)
    keys, check_every = randomness.example_keys(x, seed), search.check_interval(x)
    with frozen_eval(model):
        best = search.Best("noise", model, x, y)
        rows = best.active()
        for draw in range(draws):
            if not len(rows):
                break
            kind = balls.sphere_perturbation if draw % 2 else balls.random_perturbation
            delta = kind(x[rows], keys[rows], Stream.NOISE + draw, eps, norm)
            x_adv = balls.into(x[rows], x[rows] + delta, eps, norm)
            best.update(rows, x_adv, search.predict(model, x_adv))
            if draw % check_every == check_every - 1:
                rows = rows[~best.stopped[rows]]
    if trace is not None:
        trace["margin"] = best.margin
    return best.finalize()
