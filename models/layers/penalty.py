"""The two sums of the penalty of Srinivas et al. 2022, eq. (5): R_f = λβ Σ β + λγ Σ|log γ|."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.layers.centered_softplus import CenteredSoftplus
from bench.models.layers.lipschitz_batch_norm import LipschitzBatchNorm2d
from bench.models.layers.precompute import PrecomputedWeight
from bench.models.layers.walk import modules_of


def beta_sum(model: nn.Module) -> Tensor | None:
    """Return Σ exp(log β) over the learnable activations, shape (); None if there are none.

    Without the floor 1e-3 of β, as in the authors' code. A module used twice counts once.

    Args:
        model: any network.
    """
    return penalty_sums(model)[0]


def gamma_sum(model: nn.Module) -> Tensor | None:
    """Return Σ|log γ| over every Lipschitz batch norm, both branches of a residual block, shape (); or None.

    The absolute value, as in the authors' code (the paper prints log γ), pulls γ to 1 from both sides.

    Args:
        model: any network.
    """
    return penalty_sums(model)[1]


def penalty_sums(model: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """Return `beta_sum` and `gamma_sum` from one walk over the modules.

    Args:
        model: any network.
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
