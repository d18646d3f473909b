"""Whether a model's answers are finite, repeatable, independent of the batch, and logits."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

REPEATS: Final = 5


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Ask the model the same several times, image by image and in another order.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].

    Returns:
        `v3_repeat_difference` and `v4_batch_difference`, (B,): ‖Δz‖/‖z‖, infinite where a prediction changed or an
        answer was not finite.
    """
    z = model(x)
    repeats = [relative_difference(z, model(x)) for _ in range(REPEATS - 1)]
    alone = torch.cat([model(image[None]) for image in x])
    turned = model(x.flip(0)).flip(0)
    return {
        "v3_repeat_difference": torch.stack(repeats).amax(0),
        "v4_batch_difference": torch.maximum(relative_difference(z, alone), relative_difference(z, turned)),
    }


def relative_difference(z: Tensor, other: Tensor) -> Tensor:
    """Return ‖other − z‖/‖z‖, (B,), of two answers (B, K); infinite where a prediction or finiteness differs."""
    size = z.norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
    difference = (other - z).norm(dim=1) / size
    near = z.amax(1) - z.gather(1, other.argmax(1)[:, None])[:, 0] <= 1e-3 * z.abs().amax(1)  # a tie but for rounding
    same = near & other.isfinite().all(1) & z.isfinite().all(1)
    return torch.where(same, difference, torch.inf)
