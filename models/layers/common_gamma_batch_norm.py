"""Batch norm with affine part whose channels are scaled down together to a given Lipschitz constant (Gouk et al. 2021).

`CommonGammaBatchNorm2d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.layers.batch_norm import scaled_batch_norm


class CommonGammaBatchNorm2d(nn.BatchNorm2d):
    """y = f·w∘x̂ + b with f = min(1, γ / max_c |w_c|/σ_c), σ_c = √(running variance_c + eps).

    In eval mode the layer's Lipschitz constant is min(γ, max_c |w_c|/σ_c). γ is given, the same for every layer, and
    not learnt; w and b are learnt per channel. Gouk et al. project w after each step; here w is scaled where it is
    used, so that eval mode keeps the bound whatever the last step did. The running variance is read before the batch
    updates it, and no gradient flows through f.

    Args:
        num_features: channels C of the input (B, C, H, W).
        gamma: γ > 0.

    Raises:
        ValueError: γ ≤ 0.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, gamma: float) -> None:
        super().__init__(num_features)
        if not gamma > 0:
            raise ValueError(f"CommonGammaBatchNorm2d: expected gamma > 0, got {gamma}. Gouk et al. take 8 to 16.")
        self.gamma = gamma

    @torch.no_grad()
    def factor(self) -> Tensor:
        """Return f, shape ()."""
        largest = (self.weight.abs() / (self.running_var + self.eps).sqrt()).max()
        return (self.gamma / largest.clamp_min(torch.finfo(largest.dtype).tiny)).clamp_max(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W), same shape."""
        self._check_input_dim(x)
        weight = self.weight * self.factor()
        if self.training:
            self.num_batches_tracked.add_(1)
        return scaled_batch_norm(self, x, weight) + self.bias.view(1, -1, 1, 1)
