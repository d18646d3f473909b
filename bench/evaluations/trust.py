"""Whether a robust accuracy can be believed: the numbers behind the trust grade, per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from torch import Tensor, nn

from bench.core.decorators import evaluation
from bench.core.ranges import Gt
from bench.measuring.budgets import check_budgets
from bench.trust.columns import trust_columns
from bench.trust.probes.answers import answers
from bench.trust.probes.input_gradients import input_gradients

SOURCE: Final = "docs/trust.md; Carlini et al. 2019, 'On Evaluating Adversarial Robustness'"


def _trust(
    model: nn.Module, x: Tensor, y: Tensor, *, name: str, norm: str, seed: int, eps: Sequence[float]
) -> dict[str, Tensor]:
    radius = check_budgets(name, eps, norm, x.shape[1:])[-1]
    numbers = answers(model, x) | input_gradients(model, x, y, eps=radius, norm=norm, seed=seed)
    return {f"{name}_{number}": values for number, values in numbers.items()}


@evaluation(source=SOURCE, columns=trust_columns("trust", "l2", SOURCE))
def trust(
    model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, eps: Sequence[Annotated[float, Gt(0)]] = (0.5,)
) -> dict[str, Tensor]:
    """Measure what the checks of trust read, in l2.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        seed: of the random draws, which belong to the image.
        eps: radius of the ball; of several the largest.

    Returns:
        The columns by name, (B,) each.

    Raises:
        UsageError: an impossible eps.
    """
    return _trust(model, x, y, name="trust", norm="l2", seed=seed, eps=eps)


@evaluation(source=SOURCE, columns=trust_columns("trust_linf", "linf", SOURCE))
def trust_linf(
    model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, eps: Sequence[Annotated[float, Gt(0)]] = (8 / 255,)
) -> dict[str, Tensor]:
    """Measure what the checks of trust read, in linf; see `trust`.

    Returns:
        The columns by name, (B,) each.

    Raises:
        UsageError: an impossible eps.
    """
    return _trust(model, x, y, name="trust_linf", norm="linf", seed=seed, eps=eps)
