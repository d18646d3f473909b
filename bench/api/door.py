"""What a model's first answers say, before anything is computed: whether it keeps the contract, and gives logits."""

from __future__ import annotations

from torch import Tensor, nn

from bench.attacks.core.draws import RandomisedModel
from bench.measuring.model_contract import check_model
from bench.measuring.passes import after_forward
from bench.trust.probes.answers import SUM


def first_answers(model: nn.Module, x: Tensor, num_classes: int | None) -> tuple[int, str]:
    """Check the model contract, and look whether the outputs are probabilities (check G5 of trust, at the door).

    Args:
        model: network, images to logits (B, K).
        x: a few images (B, C, H, W), float32 in [0, 1], on the model's device.
        num_classes: K, if known.

    Returns:
        K, and a line for whoever called: "" where the outputs seem to be logits.

    Raises:
        BadModel: it breaks the contract.
        OutOfMemoryError: not even one image fits into memory.
    """
    seen: list[object] = []
    handle = after_forward(model, lambda module, inputs, output: seen.append(output))
    try:
        classes = check_model(model, x, num_classes)
    finally:
        handle.remove()
    if not isinstance(seen[0], Tensor) or not _are_probabilities(seen[0]):
        return classes, ""
    name = type(model.network if isinstance(model, RandomisedModel) else model).__name__
    return classes, (
        f"note: model {name}: expected logits, got probabilities (at least 0, of sum 1). Cross-entropy on them is "
        "bounded: leave the softmax out."
    )


def _are_probabilities(outputs: Tensor) -> bool:
    """Return whether all outputs (B, K) are at least 0 and sum to 1."""
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() <= SUM).all())
