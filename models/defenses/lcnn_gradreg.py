"""Low-curvature network and gradient regularisation together, the paper's strongest row without attacks."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from bench.core.decorators import defense
from bench.core.ranges import Ge
from bench.core.recipe import Recipe
from bench.models.defenses.gradreg import AUTHORS_LAMBDA
from bench.models.defenses.gradreg import loss as gradreg_loss
from bench.models.defenses.lcnn import curvature_penalty, lcnn
from bench.models.defenses.standard import BIBTEX


def loss(
    model: nn.Module, x: Tensor, y: Tensor, *, lambda_beta: float, lambda_gamma: float, lambda_gradient: float
) -> dict[str, Tensor]:
    """Return GradReg's loss at x (B, C, H, W), y (B,), plus the curvature penalty of eq. (5)."""
    terms = gradreg_loss(model, x, y, lambda_gradient=lambda_gradient)
    return {**terms, **curvature_penalty(model, lambda_beta, lambda_gamma)}


@defense(
    source='Srinivas et al. 2022, section 5 ("LCNN + GradReg")',
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="LCNN + GradReg",
    link="https://arxiv.org/abs/2206.07144",
    venue="NeurIPS",
    year=2022,
)
def lcnn_gradreg(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    lambda_beta: Annotated[float, Ge(0)] = 1e-3,
    lambda_gamma: Annotated[float, Ge(0)] = 1e-3,
    lambda_gradient: Annotated[float, Ge(0)] = AUTHORS_LAMBDA,
) -> nn.Module:
    """Train `lcnn`'s network with the penalties of both `lcnn` and `gradreg`, with the same constants.

    Expected (paper, CIFAR-100, ResNet-18, 200 epochs, 2 runs): accuracy 77.3 %, mean curvature 25.3.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        lambda_beta: see `lcnn`.
        lambda_gamma: see `lcnn`.
        lambda_gradient: see `gradreg`.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    return lcnn(num_classes, in_shape, backbone)
