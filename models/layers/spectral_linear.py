"""Fully connected layer with weight W/σmax(W), by torch's own parametrisation. `SpectralNormLinear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bench.core.torch_state import without_autocast


class SpectralNormLinear(nn.Linear):
    """Linear layer with weight W/σmax(W), bias untouched.

    Miyato et al. 2018 through torch.nn.utils.parametrizations.spectral_norm: one power iteration per weight
    access in training mode. Its vectors are the exact singular vectors at construction and again after
    `finalize`. Srinivas et al. 2022 use it for the last layer, in the authors' code in the baselines too.

    Args:
        in_features: as in nn.Linear.
        out_features: as in nn.Linear.
        bias: as in nn.Linear.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        parametrizations.spectral_norm(self, "weight")
        if not self._raw().is_meta:
            self.finalize()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to x (B, in)."""
        with without_autocast(x.device):
            weight = self.weight
        return F.linear(x, weight, self.bias)

    @torch.no_grad()
    def finalize(self) -> None:
        """Store the exact singular vectors; eval mode then divides by the exact norm."""
        left, _, right = torch.linalg.svd(self._raw().double(), full_matrices=False)
        state = self._state()
        state._u.copy_(left[:, 0])
        state._v.copy_(right[0])

    @torch.no_grad()
    def sigma_error(self) -> float:
        """Return |true spectral norm in eval mode − 1|; waits for the device."""
        state, raw = self._state(), self._raw()
        used = state._u @ raw @ state._v
        return abs(float(torch.linalg.matrix_norm(raw.double(), 2) / used) - 1.0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Return how pickle and copy rebuild the layer: torch gives a parametrised one a class that has no name."""
        sizes = self.in_features, self.out_features, self.bias is not None
        return _empty, sizes, dict(self.__dict__)

    def _raw(self) -> Tensor:
        """Return the trained parameter W, (out, in)."""
        chain: Any = self.parametrizations
        return chain.weight.original

    def _state(self) -> Any:
        """Return torch's parametrisation, which holds the vectors `_u` and `_v`."""
        chain: Any = self.parametrizations
        return chain.weight[0]


def _empty(in_features: int, out_features: int, bias: bool) -> SpectralNormLinear:
    """Return a layer of these sizes whose tensors are still to be set; draws nothing from the global generator."""
    with torch.random.fork_rng([]):
        return SpectralNormLinear(in_features, out_features, bias)
