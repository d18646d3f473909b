"""Fully connected layer with weight W/σmax(W). `SpectralNormLinear`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bench.models.layers.spectral_norm import SpectralNormWeight


class SpectralNormLinear(SpectralNormWeight, nn.Linear):
    """Linear layer with weight W/σmax(W), bias untouched.

    Miyato et al. 2018 as torch.nn.utils.parametrizations.spectral_norm has it, which holds its tensors and computes
    eval mode: one power iteration per pass in training mode, from v by way of u. Training computes it together with
    the other layers' instead, in fewer operations. Its vectors are the exact singular vectors at construction and again
    after `finalize`. Srinivas et al. 2022 use it for the last layer, in the authors' code in the baselines too.

    Args:
        in_features: as in nn.Linear.
        out_features: as in nn.Linear.
        bias: as in nn.Linear.
    """

    precomputed_from: ClassVar[str] = "raw_weight"

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        parametrizations.spectral_norm(self, "weight")
        if not self.raw_weight.is_meta:
            self.finalize()

    @property
    def raw_weight(self) -> Tensor:
        """The trained parameter W, (out, in)."""
        chain: Any = self.parametrizations
        return chain.weight.original

    def kept_vector(self) -> Tensor:
        """Return v, (in,)."""
        return self._state()._v

    def across(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return W·vector, (out,)."""
        return torch.mv(weight, vector)

    def back(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return Wᵀ·vector, (in,)."""
        return torch.mv(weight.t(), vector)

    def weight_gradient(self, across: Tensor, back: Tensor, weight: Tensor) -> Tensor:
        """Return across·backᵀ, (out, in)."""
        return torch.outer(across, back)

    def store(self, sigma: Tensor, across: Tensor, norm: Tensor) -> None:
        """Keep u."""
        self._state()._u.copy_(across / norm)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x (B, in)."""
        return F.linear(x, self.take_precomputed() if self.training else self.weight, self.bias)

    @torch.no_grad()
    def finalize(self) -> None:
        """Store the exact singular vectors; eval mode then divides by the exact norm."""
        left, _, right = torch.linalg.svd(self.raw_weight.double(), full_matrices=False)
        state = self._state()
        state._u.copy_(left[:, 0])
        state._v.copy_(right[0])

    @torch.no_grad()
    def sigma_error(self) -> float:
        """Return |true spectral norm in eval mode − 1|; waits for the device."""
        state, raw = self._state(), self.raw_weight
        used = state._u @ raw @ state._v
        return abs(float(torch.linalg.matrix_norm(raw.double(), 2) / used) - 1.0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Return how pickle and copy rebuild the layer: torch gives a parametrised one a class that has no name."""
        sizes = self.in_features, self.out_features, self.bias is not None
        return _empty, sizes, dict(self.__dict__)

    def _state(self) -> Any:
        """Return torch's parametrisation, which holds the vectors `_u` and `_v`."""
        chain: Any = self.parametrizations
        return chain.weight[0]


def _empty(in_features: int, out_features: int, bias: bool) -> SpectralNormLinear:
    """Return a layer of these sizes whose tensors are still to be set; draws nothing from the global generator."""
    with torch.random.fork_rng([]):
        return SpectralNormLinear(in_features, out_features, bias)
