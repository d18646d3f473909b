"""Random draws in the ball: the weakest attack, which no honest gradient attack may lose to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bench.attacks.core import balls, frozen, randomness, search
from bench.core.decorators import attack


@attack(source="Carlini et al. 2019, 'On Evaluating Adversarial Robustness', section 4.3 (brute-force check)")
def noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    draws: int = 100,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Return the worst of `draws` random points: even draws uniform in the ball, odd ones on its surface.

    The images x are (B, C, H, W) in [0, 1]; an example stops once it is misclassified beyond rounding.

    Args:
        draws: 100, enough that a defense which only bends gradients is seen.
        trace: is given `margin` (B,), the largest margin loss met.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits.
    """
    balls.check_norm("noise", norm)
    keys, every = randomness.example_keys(x, seed), search.check_interval(x)
    with frozen.frozen_eval(model):
        best = search.Best("noise", model, x, y)
        rows = best.open()
        for draw in range(draws):
            if not len(rows):
                break
            kind = balls.sphere_perturbation if draw % 2 else balls.random_perturbation
            point = balls.into(x[rows], x[rows] + kind(x[rows], keys[rows], draw, eps, norm), eps, norm)
            best.see(rows, point, search.predict(model, point))
            if draw % every == every - 1:
                rows = rows[~best.stopped[rows]]
    if trace is not None:
        trace["margin"] = best.margin
    return best.result()
