"""Low-curvature network trained on adversarial examples, with few steps of ascent."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.models.defenses.adversarial_training import loss as adversarial_loss
from bench.models.defenses.lcnn import curvature_penalty, lcnn
from bench.models.defenses.standard import BIBTEX


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None,
    lambda_beta: float,
    lambda_gamma: float,
) -> dict[str, Tensor]:
    """Return mean cross-entropy at adversarial examples of x (B, C, H, W) and the true labels y (B,), plus R_f."""
    terms = adversarial_loss(model, x, y, eps=eps, norm="l2", steps=steps, step_size=step_size, released=False)
    return {**terms, **curvature_penalty(model, lambda_beta, lambda_gamma)}


@defense(
    source="bench; layers and penalty of Srinivas et al. 2022, training of Madry et al. 2018",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="LCNN + adversarial training",
    link="https://arxiv.org/abs/2206.07144",
    venue="NeurIPS",
    year=2022,
)
def lcnn_adversarial(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    eps: Annotated[float, Ge(0)] = 0.2,
    steps: Annotated[int, Ge(1)] = 1,
    step_size: Annotated[float, Gt(0)] | None = None,
    lambda_beta: Annotated[float, Ge(0)] = 1e-3,
    lambda_gamma: Annotated[float, Ge(0)] = 1e-3,
) -> nn.Module:
    """Train `lcnn`'s network on adversarial examples of one gradient step, with the curvature penalty of eq. (5).

    A row of this harness, in neither paper: where the network is nearly linear in the ball, one step of ascent finds
    what three find. Loss: mean cross-entropy at the adversarial examples of `adversarial_training`, in the l2 ball,
    plus `lcnn`'s penalty. No published numbers.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        eps: radius on [0, 1] pixels.
        steps: ascent steps.
        step_size: length of a step; None is 2.5·eps/steps (Madry et al. 2018).
        lambda_beta: see `lcnn`.
        lambda_gamma: see `lcnn`.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    return lcnn(num_classes, in_shape, backbone)
