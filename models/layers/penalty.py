"""The two sums of the penalty of Srinivas et al. 2022, eq. (5): R_f = λβ Σ β + λγ Σ|log γ|."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.layers.centered_softplus import CenteredSoftplus
from bench.models.layers.lipschitz_batch_norm import LipschitzBatchNorm2d
from bench.models.layers.precompute import PrecomputedWeight
from bench.models.layers.walk import modules_of


def penalty_sums(model: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return Σ exp(log β) over the learnable activations and Σ|log γ| over every Lipschitz batch norm, each shape ().

    As in the authors' code: β without its floor 1e-3; every γ, on both branches of a residual block, and its absolute
    value, which pulls γ to 1 from both sides (the paper prints log γ). A module used twice counts once.

    Args:
        model: any network.

    Returns:
        The two sums; None for one that there is no layer for.
    """
    layers = modules_of(model, PrecomputedWeight)
    betas: list[Tensor] = [
        m.log_beta for m in layers if isinstance(m, CenteredSoftplus) and "log_beta" in m._parameters
    ]
    gammas: list[Tensor] = [m.log_gamma for m in layers if isinstance(m, LipschitzBatchNorm2d)]
    return (
        torch.stack(betas).exp().sum() if betas else None,
        torch.stack(gammas).abs().sum() if gammas else None,
    )
