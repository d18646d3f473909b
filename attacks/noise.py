"""Random draws in the ball: the weakest attack, which no honest gradient attack may lose to."""

from __future__ import annotations

from typing import Any, Final

import torch
from bench.attacks import _geometry, _model, randomness
from torch import Tensor, nn

SOURCE: Final = "Carlini et al. 2019, 'On Evaluating Adversarial Robustness', section 4.3 (brute-force check)"
VERSION: Final = 1
CHECK_EVERY: Final = 10


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
    _geometry.check_norm("noise", norm)
    keys = randomness.example_keys(x, seed)
    best, best_margin = x.clone(), torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    bad = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    stopped = bad.clone()
    rows = torch.arange(len(x), device=x.device)
    with _model.quiet(model):
        for draw in range(draws):
            shape = _geometry.sphere_perturbation if draw % 2 else _geometry.random_perturbation
            start = shape(x[rows], keys[rows], draw, eps, norm)
            point = _geometry.into(x[rows], x[rows] + start, eps, norm)
            logits = _model.predict(model, point)
            margin = _model.margin_loss(logits, y[rows])
            bad[rows] |= _model.non_finite(logits)
            better = margin > best_margin[rows]
            best[rows] = torch.where(_geometry.per_example(better, point), point, best[rows])
            best_margin[rows] = torch.where(better, margin, best_margin[rows])
            stopped[rows] |= _model.decided(logits, y[rows])
            if draw % CHECK_EVERY == CHECK_EVERY - 1:
                rows = rows[~stopped[rows]]
                if not len(rows):
                    break
    _model.refuse_non_finite("noise", bad)
    if trace is not None:
        trace["margin"] = best_margin
    return best
