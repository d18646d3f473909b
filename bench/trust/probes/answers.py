"""Whether a model's answers are finite, repeatable, independent of the batch, and logits."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

REPEATS: Final = 5


FLAT: Final = 0.01  # how far the largest probability may lie above 1/K for the logits to say nothing
SUM: Final = 1e-4  # how far a sum of probabilities may be off 1


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, z: Tensor) -> dict[str, Tensor]:
    """Ask the model the same several times, image by image and in another order.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        z: its logits, (B, K).

    Returns:
        (B,) each: `v3_repeat_difference` and `v4_batch_difference`, ‖Δz‖/‖z‖, at least 1 where a prediction changed or
        an answer was not finite; `g5_probabilities`, 1 where the outputs are ≥ 0 and sum to 1; `g5_flat`, 1 where
        they as good as agree.
    """
    repeats = [relative_difference(z, model(x)) for _ in range(REPEATS - 1)]
    alone = torch.cat([model(image[None]) for image in x])
    turned = model(x.flip(0)).flip(0)
    probabilities = (z >= 0).all(1) & ((z.sum(1) - 1).abs() <= SUM)
    flat = z.softmax(1).amax(1) <= 1 / z.shape[1] + FLAT
    return {
        "v3_repeat_difference": torch.stack(repeats).amax(0),
        "v4_batch_difference": torch.maximum(relative_difference(z, alone), relative_difference(z, turned)),
        "g5_probabilities": probabilities.float(),
        "g5_flat": flat.float(),
    }


def relative_difference(z: Tensor, other: Tensor) -> Tensor:
    """Return ‖other − z‖/‖z‖, (B,), of two answers (B, K); at least 1 where a prediction changed."""
    size = z.norm(dim=1).clamp_min(torch.finfo(z.dtype).tiny)
    difference = (other - z).norm(dim=1) / size
    near = z.amax(1) - z.gather(1, other.argmax(1)[:, None])[:, 0] <= 1e-3 * z.abs().amax(1)  # a tie but for rounding
    same = near & other.isfinite().all(1) & z.isfinite().all(1)
    return torch.where(same, difference, difference.nan_to_num(1.0, posinf=1.0).clamp_min(1.0))
