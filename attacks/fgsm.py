"""The fast gradient method: one step of full length."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, losses, search
from bench.attacks.core.trace import ZERO_GRADIENT, Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge
from bench.core.torch_state import frozen_eval


@attack(source="Goodfellow, Shlens, Szegedy 2015, section 4", extra={"zero_gradient": ZERO_GRADIENT})
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    trace: Trace | None = None,
) -> Tensor:
    """Return clip(x + eps·d), d the direction in which cross-entropy rises fastest (∇/‖∇‖₂, or its sign for linf).

    Deterministic.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: not used; every attack has it.
        trace: receives `zero_gradient` (B,), 1 where there was no gradient to follow.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("fgsm", norm)
    with frozen_eval(model):
        logits, _, grad = search.gradient(model, x, lambda z: losses.log_odds_loss(z, y))
    if not (logits.isfinite().all() and grad.isfinite().all()):
        raise FloatingPointError("fgsm: expected finite logits and gradients, got NaN or infinity. Fix the model.")
    direction = balls.ascent(grad, norm)
    if trace is not None:
        trace["zero_gradient"] = (direction.flatten(1) == 0).all(1).to(torch.long)
    return balls.into(x, x + eps * direction, eps, norm)
