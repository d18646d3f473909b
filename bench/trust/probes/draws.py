"""What the draws of a randomised model do to its verdicts and to its gradients."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from bench.attacks.core import search
from bench.attacks.core.draws import OTHER_DRAWS, RandomisedModel
from bench.attacks.core.losses import margin_loss

MORE: Final = 4  # times the draws of an estimate, where a gradient's noise is measured and where R2 searches


def draws(model: RandomisedModel, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Ask a randomised model with other draws, among other images, and for its gradient twice.

    Args:
        model: in eval mode.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).

    Returns:
        (B,) each: `r1_verdict_changed`, 1 where the vote with other draws is right and the first wrong, or the other
        way round; `r1_batch_difference`, the largest difference of a mean probability between copies of the image alone
        and the image among others; `r3_agreement`, the cosine between the margin's gradients over two sets of draws.
    """
    if not len(x):
        return {}
    with torch.no_grad():
        first = model.decide(x).argmax(1)
        counts, alone = model.vote(x, model.votes, model.seed + OTHER_DRAWS)
        among = model.held(model.votes)(x).exp()
    second = (counts + alone).argmax(1)
    finer = RandomisedModel(model.network, model.votes, MORE * model.draws, model.seed).eval()
    gradients = [search.gradient(finer, x, lambda z: margin_loss(z, y))[2].flatten(1).double() for _ in range(2)]
    sizes = gradients[0].norm(dim=1) * gradients[1].norm(dim=1)
    agreement = torch.where(sizes > 0, (gradients[0] * gradients[1]).sum(1) / sizes, torch.nan)
    return {
        "r1_verdict_changed": ((first == y) != (second == y)).float(),
        "r1_batch_difference": (alone - among).abs().amax(1),
        "r3_agreement": agreement.to(torch.float32),
    }
