"""The judge of an attack: clip, check the ball, ask the model again in float32; never take the attack's word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.core.torch_state import full_precision

TOLERANCE: Final = 1e-5  # relative; float32 rounding overshoots a radius by up to 8e-7


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """What a proposed adversarial batch is worth.

    Attributes:
        x_adv: the proposal after the clip to [0, 1], (B, C, H, W).
        broken: misclassified and inside the ball, bool (B,).
        refused: misclassified, but outside the ball: a claim that does not hold, bool (B,).
        distance: norm of the perturbation, (B,).
    """

    x_adv: Tensor
    broken: Tensor
    refused: Tensor
    distance: Tensor


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the predicted classes (B,), in float32.

    Raises:
        BenchError: a logit is NaN or infinite: argmax would call that class 0, and a broken model robust.
    """
    with full_precision(x.device):
        logits = model(x.float()).float()
    bad = (~logits.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise BenchError(
            f"robust accuracy: expected finite logits, got NaN or infinity on {len(bad)} of {len(x)} points "
            f"(first at position {bad[0]} of the batch). Fix the model's forward; it cannot be judged so."
        )
    return logits.argmax(1)


def judge(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, eps: float, norm: str) -> JudgedBatch:
    """Clip a proposed batch to the box, check the ball `‖δ‖ ≤ eps (1 + 1e-5)`, and ask the model again in float32.

    Args:
        model: the network, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their labels, (B,).
        x_adv: the attack's proposal, (B, C, H, W).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".

    Returns:
        The clipped images and, per image, whether they are inside the ball and break the model.

    Raises:
        BenchError: the proposal has the wrong shape or holds NaN, or the model answers with NaN.
    """
    if x_adv.shape != x.shape:
        raise BenchError(
            f"robust accuracy: expected adversarial images of shape {tuple(x.shape)}, got {tuple(x_adv.shape)}. "
            "Fix the attack."
        )
    if not x_adv.isfinite().all():
        raise BenchError("robust accuracy: expected finite adversarial images, got NaN or infinity. Fix the attack.")
    x_adv = x_adv.detach().to(x.dtype).clamp(0, 1)
    delta = (x_adv.double() - x.double()).flatten(1)
    distance = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)
    wrong = predict(model, x_adv) != y
    inside = distance <= eps * (1 + TOLERANCE)
    return JudgedBatch(x_adv, wrong & inside, wrong & ~inside, distance.to(x.dtype))
