"""Layers of the defenses, each usable on its own in any network, and their training statistics."""

from __future__ import annotations

from torch import nn

from bench.models.layers.batch_norm import BatchNorm2d
from bench.models.layers.cayley_conv import CayleyConv2d, MaxMin
from bench.models.layers.centered_softplus import CenteredSoftplus, Softplus, centered_softplus
from bench.models.layers.common_gamma_batch_norm import CommonGammaBatchNorm2d
from bench.models.layers.conv_fourier_bound import conv_norm_bound
from bench.models.layers.conv_geometry import ConvGeometry
from bench.models.layers.conv_lanczos import top_singular
from bench.models.layers.conv_spectral_norm import SpectralNormConv2d
from bench.models.layers.double_backward_conv import DoubleBackwardConv2d
from bench.models.layers.kernel_spectral_norm import KernelSpectralNormConv2d
from bench.models.layers.lipschitz_batch_norm import LipschitzBatchNorm2d
from bench.models.layers.parseval_conv import ParsevalConv2d
from bench.models.layers.penalty import penalty_sums
from bench.models.layers.precompute import PrecomputedWeight, precomputed
from bench.models.layers.spectral_linear import SpectralNormLinear

__all__ = [
    "BatchNorm2d",
    "CayleyConv2d",
    "CenteredSoftplus",
    "CommonGammaBatchNorm2d",
    "ConvGeometry",
    "DoubleBackwardConv2d",
    "KernelSpectralNormConv2d",
    "LipschitzBatchNorm2d",
    "MaxMin",
    "ParsevalConv2d",
    "PrecomputedWeight",
    "Softplus",
    "SpectralNormConv2d",
    "SpectralNormLinear",
    "centered_softplus",
    "conv_norm_bound",
    "layer_statistics",
    "penalty_sums",
    "precomputed",
    "top_singular",
]


def layer_statistics(model: nn.Module, *, sigma_error: bool = True) -> dict[str, float]:
    """Return the statistics of a network's layers for the training log. Waits for the device: once per epoch.

    Args:
        model: any network.
        sigma_error: also measure `max_sigma_error`, which takes a ResNet-18 half a second on a GPU.

    Returns:
        Those of the following for which there are layers: `sum_beta`, Σ exp(log β) over learnable activations (the
        penalised sum, without the floor); `sum_abs_log_gamma`, Σ|log γ|; `max_sigma_error`, the largest
        |true norm − 1| of any spectrally normalised layer in eval mode, from converged norms.
    """
    statistics: dict[str, float] = {}
    beta, gamma = penalty_sums(model)
    if beta is not None:
        statistics["sum_beta"] = float(beta.detach())
    if gamma is not None:
        statistics["sum_abs_log_gamma"] = float(gamma.detach())
    normalised = [m for m in model.modules() if isinstance(m, SpectralNormConv2d | SpectralNormLinear)]
    if normalised and sigma_error:
        statistics["max_sigma_error"] = max(m.sigma_error() for m in normalised)
    return statistics
