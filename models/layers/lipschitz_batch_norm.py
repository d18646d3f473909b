"""γ-Lipschitz batch norm, the γ-clip: y = min(γ, ‖BN‖)·BN(x)/‖BN‖, so that its Lipschitz constant is at most γ.

Srinivas et al. 2022, section 3.4.2. `LipschitzBatchNorm2d`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.models.layers.batch_norm import scaled_batch_norm
from bench.models.layers.precompute import JointWork, PrecomputedWeight, Tensors


class _Factors(JointWork):
    """min(1, γ·σmin) of several layers from their log γ, for each layer's channels, (C,)."""

    @staticmethod
    def compute(layers: Sequence[LipschitzBatchNorm2d], sources: Tensors) -> tuple[Tensors, Tensors]:
        variances = torch.stack([layer.smallest_variance() for layer in layers])
        gains = _gain(torch.stack(list(sources)), variances)
        each = zip(gains.clamp_max(1.0).unbind(), layers, strict=True)
        return [factor.expand(layer.num_features).contiguous() for factor, layer in each], [gains, variances, *sources]

    @staticmethod
    def pull_back(layers: Sequence[LipschitzBatchNorm2d], saved: Tensors, grads: Tensors) -> Tensors:
        gains, variances, *sources = saved
        if torch.is_grad_enabled():  # to be differentiated again: the gains as functions of log γ
            gains = _gain(torch.stack(sources), variances)
        return (torch.stack([g.sum() for g in grads]) * gains * (gains <= 1)).unbind()


class LipschitzBatchNorm2d(PrecomputedWeight, nn.BatchNorm2d):
    """Batch norm without affine part, all channels scaled by one factor min(1, γ·σmin).

    With ‖BN‖ = 1/σmin and σmin = min_c √(running variance_c + eps),

        y = min(γ, ‖BN‖) · BN(x)/‖BN‖

    so the largest channel gain in eval mode is min(γ, 1/σmin) ≤ γ. γ = exp(log γ) is one scalar per layer.
    The scale is uniform, as in the displayed formula; the paper's "equivalently clip the running deviation"
    would leave channels below γ unchanged, which is another map. As in the authors' code the running variance is
    read before the batch updates it (also in training, so the bound holds in eval mode only), no gradient flows
    through it, γ ≥ 1 is not enforced, and γ0 = 10.

    Args:
        num_features: channels C of the input (B, C, H, W).
        gamma0: initial γ, > 0.
        eps: added to the variance, as in nn.BatchNorm2d.
        momentum: of the running statistics, as in nn.BatchNorm2d.

    Attributes:
        log_gamma: log γ, shape (); exempt from weight decay.
        running_mean: (C,).
        running_var: (C,).

    Raises:
        ValueError: gamma0 ≤ 0.
    """

    no_weight_decay: ClassVar[frozenset[str]] = frozenset({"log_gamma"})
    precomputed_from: ClassVar[str] = "log_gamma"
    joint: ClassVar[type[JointWork] | None] = _Factors
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, gamma0: float = 10.0, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=False)
        if not gamma0 > 0:
            raise ValueError(f"LipschitzBatchNorm2d: expected gamma0 > 0, got {gamma0}. The paper's is ≥ 1.")
        self.log_gamma = nn.Parameter(torch.tensor(math.log(gamma0)))

    @property
    def gamma(self) -> Tensor:
        """The bound γ, shape ()."""
        return self.log_gamma.exp()

    def factor(self) -> Tensor:
        """Return the common factor min(1, γ·σmin), shape (); differentiable in log γ while the bound is active."""
        return _factor(self.log_gamma, self.smallest_variance())

    def smallest_variance(self) -> Tensor:
        """Return σmin² = min_c running variance_c + eps, shape ()."""
        return self.running_var.min() + self.eps

    def gain(self) -> Tensor:
        """Return the layer's Lipschitz constant in eval mode, min(γ, 1/σmin), shape ()."""
        return self.factor() / self.smallest_variance().sqrt()

    def precompute(self, source: Tensor) -> Tensor:
        """Return min(1, γ·σmin) for every channel, (C,), to be batch norm's weight: no further pass over the images.

        Args:
            source: log γ, shape ().
        """
        return _factor(source, self.smallest_variance()).expand(self.num_features).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W), same shape."""
        self._check_input_dim(x)
        if not self.training:
            return scaled_batch_norm(self, x, self.precompute(self.log_gamma))
        weight = self.take_precomputed()
        self.num_batches_tracked.add_(1)
        return scaled_batch_norm(self, x, weight)

    def extra_repr(self) -> str:
        """Return batch norm's settings and γ."""
        settings = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{settings}, gamma={self.gamma.item():.4g}"


def _gain(log_gamma: Tensor, smallest_variance: Tensor) -> Tensor:
    """Return γ·σmin, shaped like log γ and σmin²."""
    return log_gamma.exp() * smallest_variance.sqrt()


def _factor(log_gamma: Tensor, smallest_variance: Tensor) -> Tensor:
    """Return min(1, γ·σmin), shaped like log γ and σmin²."""
    return _gain(log_gamma, smallest_variance).clamp_max(1.0)
