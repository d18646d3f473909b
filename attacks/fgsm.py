"""The fast gradient method: one step of full length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, frozen, losses, search
from bench.attacks.core.trace_columns import ZERO_GRADIENT
from bench.core.decorators import attack


@attack(source="Goodfellow, Shlens, Szegedy 2015, section 4", extra={"zero_gradient": ZERO_GRADIENT})
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Return clip(x + eps·d), d the direction in which cross-entropy rises fastest (∇/‖∇‖₂, or its sign for linf).

    Deterministic: `seed` is there because every attack has it. The images x are (B, C, H, W) in [0, 1].

    Args:
        trace: is given `zero_gradient` (B,), 1 where there was no gradient to follow.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("fgsm", norm)
    with frozen.frozen_eval(model):
        logits, _, slope = search.gradient(model, x, lambda z: losses.log_odds_loss(z, y))
    if not (logits.isfinite().all() and slope.isfinite().all()):
        raise FloatingPointError("fgsm: expected finite logits and gradients, got NaN or infinity. Mend the model.")
    direction = balls.ascent(slope, norm)
    if trace is not None:
        trace["zero_gradient"] = (direction.flatten(1) == 0).all(1).to(torch.long)
    return balls.into(x, x + eps * direction, eps, norm)
