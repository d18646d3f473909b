"""How small a change breaks an image: the shortest misclassified step found on the way to its adversarial example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.core.decorators import evaluation
from bench.core.ranges import Ge
from bench.core.records import Column, Need
from bench.measuring.attack_columns import NORM_FORMULAS
from bench.measuring.inputs import BatchInputs
from bench.measuring.judge import judge, predict

SOURCE: Final = "Brendel et al. 2018, 'Decision-Based Adversarial Attacks', the binary search towards the image"
NEEDS: Final = (
    Need(role="adversarial", of="own", optional=True),
    Need(role="robust", of="own", optional=True),
)


def describe_breaking(norm: str) -> dict[str, Column]:
    """Return what the search towards the image gives, by pattern of the column's name.

    Args:
        norm: "l2" or "linf".
    """
    return {
        f"breaking_{norm}_{{eps}}_distance": Column(
            "Size of the smallest misclassified step found on the segment from the image to the adversarial example "
            "of the ranking attack: no smaller than the smallest change that breaks the image. 0 if it is "
            "misclassified without a change, missing if robust or if no example is stored.",
            unit=f"{norm} norm on [0, 1] pixels",
            direction="higher",
            formula=f"t {NORM_FORMULAS[norm]}, argmax f(x + t(x' − x)) ≠ y, t by bisection of [0, 1]",
            source=SOURCE,
            role="breaking",
            params={"norm": norm},
        )
    }


def breaking_distance(
    model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, eps: float, norm: str, steps: int
) -> Tensor:
    """Return how far each image must be moved towards its adversarial example until it is misclassified, (B,).

    Bisection keeps a misclassified end: the result is the size of a step that was seen to break the image. Where the
    segment crosses the boundary several times it ends at one of the crossings.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels (B,).
        x_adv: adversarial examples (B, C, H, W), the image itself where there is none.
        eps: radius of the ball in which they lie.
        norm: "l2" or "linf".
        steps: of the bisection; the result is within a share 2^-steps of the crossing.

    Returns:
        The size of the step; 0 where the image is misclassified as it is, NaN where the example breaks nothing.

    Raises:
        BenchError: an answer of the model is not finite.
    """
    right = predict(model, x) == y
    found = torch.where(right, torch.nan, 0.0).to(x.dtype)
    rows = (right & judge(model, x, y, x_adv, eps=eps, norm=norm).broken).nonzero()[:, 0]
    if not len(rows):
        return found
    start, delta, labels = x[rows], x_adv[rows] - x[rows], y[rows]
    low, high = x.new_zeros(len(rows)), x.new_ones(len(rows))
    for _ in range(steps):
        middle = (low + high) / 2
        wrong = predict(model, (start + middle[:, None, None, None] * delta).clamp(0, 1)) != labels
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    change = (high[:, None, None, None] * delta).flatten(1).double()
    found[rows] = (change.norm(dim=1) if norm == "l2" else change.abs().amax(1)).to(x.dtype)
    return found


def _breaking(
    model: nn.Module, x: Tensor, y: Tensor, inputs: BatchInputs, eps: Sequence[float], norm: str, steps: int
) -> dict[str, Tensor]:
    images = inputs.own.get("adversarial", x)
    if "robust" in inputs.own:
        images = torch.where(inputs.own["robust"].bool()[:, None, None, None], x, images)
    return {
        f"breaking_{norm}_{budget:g}_distance": breaking_distance(
            model, x, y, images, eps=budget, norm=norm, steps=steps
        )
        for budget in eps
    }


@evaluation(source=SOURCE, columns=describe_breaking("l2"), needs=NEEDS)
def breaking_l2(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    inputs: BatchInputs,
    seed: int = 0,
    eps: Sequence[float] = (0.5,),
    steps: Annotated[int, Ge(1)] = 14,
) -> dict[str, Tensor]:
    """Search the way to each stored adversarial example of images x (B, C, H, W) for the first that breaks, in l2.

    An attack in a ball returns a point at its edge however easy the image: the length of its change says nothing of
    the image. This costs `steps` + 2 passes per broken image and no gradient; the result is an upper bound on the
    smallest change that breaks the image.

    Returns:
        The column by name, (B,).

    Raises:
        BenchError: an answer of the model is not finite.
    """
    return _breaking(model, x, y, inputs, eps, "l2", steps)


@evaluation(source=SOURCE, columns=describe_breaking("linf"), needs=NEEDS)
def breaking_linf(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    inputs: BatchInputs,
    seed: int = 0,
    eps: Sequence[float] = (8 / 255,),
    steps: Annotated[int, Ge(1)] = 14,
) -> dict[str, Tensor]:
    """Search the way to each stored adversarial example of images x (B, C, H, W) for the first that breaks, in linf.

    See `breaking_l2`.

    Returns:
        The column by name, (B,).

    Raises:
        BenchError: an answer of the model is not finite.
    """
    return _breaking(model, x, y, inputs, eps, "linf", steps)
