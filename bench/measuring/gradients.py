"""Whether a model passes gradients: robustness against gradient attacks means nothing where it does not."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core.losses import log_odds_loss, margin_loss
from bench.core.torch_state import full_precision
from bench.measuring.memory import on_fewer_images, out_of_memory_detected
from bench.measuring.model_contract import BadModel, checked_eval

PROBE_IMAGES: Final = 4


def check_gradients(evaluation: str, model: nn.Module, x: Tensor) -> None:
    """Refuse an evaluation that follows gradients on a model that gives none.

    One backward pass of the margin and one of the log odds (cross-entropy's direction), of the predicted class. A
    saturated softmax passes: its margin has a gradient. So does a model whose logits are the same everywhere: its
    gradient is zero in truth.

    Args:
        evaluation: its name, for the message.
        model: network on the device of x.
        x: images (B, C, H, W), float32 in [0, 1], of which the first `PROBE_IMAGES` are used.

    Raises:
        BadModel: both gradients are absent or zero at more than one image (at the only one, if there is no other), or
            the backward pass raises.
        OutOfMemoryError: not even one image fits into memory.
    """
    on_fewer_images(x[:PROBE_IMAGES], lambda images: _check_gradients(evaluation, model, images))


def _check_gradients(evaluation: str, model: nn.Module, x: Tensor) -> None:
    """Refuse a model that gives no gradients at images x (B, C, H, W), see `check_gradients`.

    Raises:
        BadModel: it gives none.
    """
    name = f"evaluation {evaluation}: model {type(model).__name__}"
    with checked_eval(model), full_precision(x.device):
        try:
            with out_of_memory_detected(name):
                zero = _zero_gradients(model, x)
        except RuntimeError as error:
            cause = " ".join(str(error).split()).rstrip(".")
            if "in-place operation" in cause:
                raise BadModel(
                    f"{name}: expected images left as they are, got a forward() that changes its input in place. Write "
                    "bench.wrap(model), which copies it."
                ) from error
            raise BadModel(
                f"{name}: expected a backward pass, got {type(error).__name__}: {cause}. Fix forward(), or choose "
                "evaluations that need no gradients: accuracy, square, noise."
            ) from error
        if zero < min(2, len(x)) or len(x) == 0 or _is_constant(model, x):
            return
    raise BadModel(
        f"{name}: expected gradients with respect to the images, got none, or zero, at {zero} of {len(x)} images. "
        "Its forward() detaches them (no_grad, rounding, 8-bit layers), and what follows gradients would call it "
        "robust. Choose evaluations that need none: accuracy, square, noise."
    )


def _zero_gradients(model: nn.Module, x: Tensor) -> int:
    """Return at how many images the gradients of margin and log odds are both absent or zero."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        y = logits.argmax(1)
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for loss in (margin_loss(logits, y), log_odds_loss(logits, y)):
            if loss.requires_grad:
                (gradient,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=True, allow_unused=True)
                if gradient is not None:
                    found |= (gradient.flatten(1) != 0).any(1)  # NaN counts: the attack names it
    return int((~found).sum())


@torch.no_grad()
def _is_constant(model: nn.Module, x: Tensor) -> bool:
    """Return whether the logits are the same at all images and at their negatives."""
    logits = model(torch.cat([x, 1 - x]))
    return bool((logits == logits[:1]).all())
