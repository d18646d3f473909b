"""Accuracy under common corruptions: noise, blur, light and coding, in five severities of bench's own scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.ranges import Ge, Le
from bench.core.records import Column
from bench.core.ticks import tick
from bench.measuring.corruptions.scale import CORRUPTIONS, SEVERITIES, Name, corrupted
from bench.measuring.judge import predict

SOURCE: Final = (
    "The idea: Hendrycks and Dietterich 2019, 'Benchmarking Neural Network Robustness to Common Corruptions'. The code "
    "and the severities are ours: no number compares with CIFAR-10-C or ImageNet-C"
)


def describe_corruptions() -> dict[str, Column]:
    """Return what the evaluation gives, by pattern of the column's name."""
    copies = {
        f"corruption_{name}_{{severity}}_correct": Column(
            f"The copy with {corruption.words}, is classified correctly. Severity 1 to 5: "
            f"{', '.join(f'{s:g}' for s in corruption.strengths)}.",
            kind="flag",
            direction="higher",
            formula="argmax_k z_k(copy) = y",
            source=SOURCE,
            role="corruption",
            params={"corruption": name},
        )
        for name, corruption in CORRUPTIONS.items()
    }
    mean = Column(
        "Share of the image's corrupted copies, over corruptions and severities, that are classified correctly. The "
        "severities are bench's own: the number compares with no other benchmark's.",
        unit="share",
        board="corruption_accuracy",
        direction="higher",
        formula="mean over corruptions and severities of [argmax_k z_k(copy) = y]",
        source=SOURCE,
        role="corruption",
        interval="bootstrap",
    )
    return {"corruption_accuracy": mean, **copies}


@evaluation(source=SOURCE, columns=describe_corruptions(), tracks=("deterministic", "randomised"))
def corruptions(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    corruption: Sequence[Name] = tuple(CORRUPTIONS),
    severity: Sequence[Annotated[int, Ge(1), Le(5)]] = SEVERITIES,
) -> dict[str, Tensor]:
    """Classify corrupted copies of images x (B, C, H, W), one per corruption and severity.

    The copies are made here, by our own code (JPEG by Pillow); nothing is downloaded. The severities are ours, with
    lengths as shares of the image's side, so that images of any size are treated alike; they are not those of
    CIFAR-10-C or ImageNet-C, and no number compares with theirs. An image's draws are its own, and the same for all
    severities.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1], H and W at least 4.
        y: labels (B,).
        seed: of the draws of noise, directions and haze.
        corruption: which, by name.
        severity: which, of 1 to 5.

    Returns:
        `corruption_<name>_<severity>_correct` (B,) bool, and `corruption_accuracy` (B,), their mean per image.

    Raises:
        UsageError: no corruption or no severity, or images smaller than 4 × 4.
        BenchError: an answer of the model is not finite.
    """
    if not corruption or not severity:
        raise UsageError("corruptions: expected at least one corruption and severity, got none. Name one.")
    correct: dict[str, Tensor] = {}
    for place, name in enumerate(corruption):
        tick("corruptions", place, len(corruption))
        for level in sorted(severity):
            copies = corrupted(x, name, level, seed=seed)
            correct[f"corruption_{name}_{level}_correct"] = predict(model, copies) == y
    return {"corruption_accuracy": torch.stack(list(correct.values())).double().mean(0), **correct}
