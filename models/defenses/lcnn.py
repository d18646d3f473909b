"""Low-curvature neural networks: the paper's layers and the penalty of its eq. (5)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.models.backbones import Layers, build, plain_conv
from bench.models.defenses.standard import BIBTEX
from bench.models.layers import (
    BatchNorm2d,
    CenteredSoftplus,
    LipschitzBatchNorm2d,
    SpectralNormConv2d,
    penalty_sums,
)


def curvature_penalty(model: nn.Module, lambda_beta: float, lambda_gamma: float) -> dict[str, Tensor]:
    """Return R_f of eq. (5), λβ Σ β + λγ Σ|log γ|, as the terms `beta` and `gamma`; absent where there is no layer.

    β without its floor; every γ counts, on both branches of a residual block, and |log γ| replaces the paper's log γ
    (all three as in the authors' code).

    Args:
        model: any network.
        lambda_beta: λβ.
        lambda_gamma: λγ.

    Returns:
        Name of the term → its value, shape ().
    """
    beta, gamma = penalty_sums(model)
    terms = {}
    if beta is not None:
        terms["beta"] = lambda_beta * beta
    if gamma is not None:
        terms["gamma"] = lambda_gamma * gamma
    return terms


def loss(model: nn.Module, x: Tensor, y: Tensor, *, lambda_beta: float, lambda_gamma: float) -> dict[str, Tensor]:
    """Return mean cross-entropy at x (B, C, H, W), y (B,), plus the curvature penalty."""
    return {"cross_entropy": F.cross_entropy(model(x), y), **curvature_penalty(model, lambda_beta, lambda_gamma)}


@defense(
    source="Srinivas et al. 2022, sections 3.3-3.5, eq. (5)",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Low-curvature network (LCNN)",
    link="https://arxiv.org/abs/2206.07144",
    venue="NeurIPS",
    year=2022,
)
def lcnn(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    lambda_beta: Annotated[float, Ge(0)] = 1e-3,
    lambda_gamma: Annotated[float, Ge(0)] = 1e-3,
    beta0: Annotated[float, Gt(0)] = 5.0,
    gamma0: Annotated[float, Gt(0)] = 10.0,
    learn_beta: bool = True,
    centered: bool = True,
    conv_spectral_norm: bool = True,
    lipschitz_bn: bool = True,
    authors_sigma_size: bool = False,
) -> nn.Module:
    """Train with centered softplus, truly normalised convolutions, γ-Lipschitz batch norm, and R_f of eq. (5).

    Loss: mean cross-entropy + λβ Σ β + λγ Σ|log γ|, the same from the first step to the last. The skeleton is that
    of `standard`. Expected (paper, CIFAR-100, ResNet-18, 200 epochs, 2 runs): accuracy 77.3 %, mean curvature 69.5
    against 270.9 for Standard.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        lambda_beta: λβ. The paper's main text gives neither λ; 1e-3 is the authors' code at the time of the paper's
            table, 1e-2 their later one.
        lambda_gamma: λγ.
        beta0: initial β (authors' code).
        gamma0: initial γ (authors' code).
        learn_beta: False keeps β at beta0 (ablation).
        centered: False takes the uncentered softplus, β still learnt (ablation).
        conv_spectral_norm: False leaves convolutions as they are (ablation).
        lipschitz_bn: False takes batch norm without affine part (ablation).
        authors_sigma_size: True measures strided convolutions on the authors' larger images.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    conv = partial(SpectralNormConv2d, authors_size=authors_sigma_size)
    layers = Layers(
        conv=conv if conv_spectral_norm else plain_conv,
        norm=partial(LipschitzBatchNorm2d, gamma0=gamma0) if lipschitz_bn else BatchNorm2d,
        activation=partial(CenteredSoftplus, beta0, learn_beta=learn_beta, centered=centered),
    )
    return build(backbone, num_classes, in_shape, layers)
