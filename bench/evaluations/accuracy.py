"""Clean accuracy and the margin of the logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.core.decorators import evaluation
from bench.core.errors import BenchError
from bench.core.records import Column


@evaluation(
    source="The field's convention; margin as in Carlini and Wagner 2017",
    columns={
        "clean_correct": Column(
            "The unperturbed image is classified correctly.",
            kind="flag",
            board="clean_accuracy",
            aggregate="fraction",
            direction="higher",
            formula="argmax_k z_k(x) = y",
            role="clean",
            interval="wilson",
        ),
        "margin": Column(
            "Logit of the true class minus the largest other logit.",
            unit="logits",
            direction="higher",
            formula="z_y(x) − max_{k≠y} z_k(x)",
            role="margin",
        ),
    },
    tracks=("deterministic", "randomised"),
)
def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Classify the unperturbed images.

    Args:
        model: network in eval mode, (B, C, H, W) → logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        seed: unused; nothing is drawn.

    Returns:
        `clean_correct` (B,) bool and `margin` (B,) in logits.

    Raises:
        BenchError: a logit is not finite (argmax of NaN is class 0, which would count as an answer).
    """
    with torch.no_grad():
        logits = model(x)
    bad = ~torch.isfinite(logits).all(1)
    if bad.any():
        raise BenchError(
            f"accuracy: expected finite logits, got NaN or infinity for {int(bad.sum())} of {len(y)} images. "
            "The model is broken; it is not evaluated."
        )
    true = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return {"clean_correct": logits.argmax(1) == y, "margin": true - others}
