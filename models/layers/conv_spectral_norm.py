"""Convolution with weight W/σ, σ = ‖x ↦ conv(x, W)‖₂: the true norm of the map on images, not of the flattened kernel.

Srinivas et al. 2022, section 3.4.1, after Ryu et al. 2019. `SpectralNormConv2d`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.models.layers.conv_geometry import ConvGeometry
from bench.models.layers.conv_lanczos import top_singular
from bench.models.layers.spectral_norm import SpectralNormWeight

# At construction, from the authors' code.
INITIAL_POWER_ITERATIONS = 15
INITIAL_RESTARTS = 8  # of Lanczos, for σ before the first training step: relative error below 1e-5

# The library's own kernel.
_convolution_backward = torch.ops.aten.convolution_backward


class SpectralNormConv2d(SpectralNormWeight, nn.Conv2d):
    """Convolution with weight W/σ, σ = ‖x ↦ conv(x, W)‖₂ on inputs of the given size.

    One power iteration per training-mode forward (the authors' choice; a step with two such forwards makes two),
    with the layer's own stride, padding, dilation and groups:

        v ← convᵀ(u)/‖convᵀ(u)‖,  σ = ‖conv(v)‖,  u ← conv(v)/σ

    σ is differentiable in W with v held constant: its gradient is the weight gradient of the convolution at
    (v, u), so no third convolution is needed. Nothing waits for the device. `weight` is the normalised weight;
    the trained parameter is `raw_weight` (same key order as nn.Conv2d otherwise). In eval mode σ is a stored
    constant: the converged one of the initial weight, then the last step's, and after `finalize` the converged one
    again. Power iteration errs low, so between the first step and `finalize` the true norm is slightly above 1.
    docs/compatibility.md says what holds under `torch.compile` and with activation checkpointing.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: one number or (vertical, horizontal).
        in_size: height and width of this layer's input; any, also rectangular.
        stride: as in nn.Conv2d.
        padding: pixels of zeros, as in nn.Conv2d.
        dilation: as in nn.Conv2d.
        groups: as in nn.Conv2d.
        bias: as in nn.Conv2d; the bias is not normalised.
        authors_size: measure strided layers on the authors' larger input (2H − 1 for stride 2), whose output is
            as large as the layer's input; a slight over-estimate (0.978-0.9994 of the bound is reached).

    Attributes:
        raw_weight: the trained parameter W, (Cout, Cin/groups, kh, kw).
        u: left singular vector, (1, Cout, H', W'), ‖u‖ = 1.
        sigma: σ, shape ().
        geometry: the linear map without its weight.

    Raises:
        ValueError: padding other than zeros, or given as a string.
    """

    precomputed_from: ClassVar[str] = "raw_weight"
    raw_weight: nn.Parameter
    u: Tensor
    sigma: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        in_size: tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        authors_size: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.raw_weight = nn.Parameter(self.weight.detach())
        del self._parameters["weight"]
        self.geometry = ConvGeometry.of(self, in_size, authors_size=authors_size)
        u = torch.randn(1, out_channels, *self.geometry.out_size)
        self.register_buffer("u", u / u.norm())
        self.register_buffer("sigma", torch.ones(()))
        with torch.no_grad():
            for _ in range(INITIAL_POWER_ITERATIONS):
                self.precompute(self.raw_weight)
            if not self.raw_weight.is_meta:  # σ alone: training goes on from the iterated u, as the authors' does
                start = self.geometry.adjoint(self.u, self.raw_weight)
                self.sigma.copy_(top_singular(self.raw_weight, self.geometry, rounds=INITIAL_RESTARTS, start=start)[0])

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight that the layer applies in eval mode, W/σ, (Cout, Cin/groups, kh, kw).

        A parametrisation would rename the parameter in the state. While nn.Conv2d is under construction there is no
        `raw_weight` yet: the AttributeError then lets nn.Module find Conv2d's own parameter.
        """
        return self.raw_weight / self.sigma

    def kept_vector(self) -> Tensor:
        """Return u."""
        return self.u

    def across(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return convᵀ(vector; W), (1, Cin, H, W)."""
        return self.geometry.adjoint(vector, weight)

    def back(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return conv(vector; W), (1, Cout, H', W')."""
        return self.geometry.forward(vector, weight)

    def weight_gradient(self, across: Tensor, back: Tensor, weight: Tensor) -> Tensor:
        """Return the weight gradient of the convolution at (across, back), in the shape of W."""
        stride, padding, dilation = self.geometry.stride, self.geometry.padding, self.geometry.dilation
        mask = [False, True, False]
        return _convolution_backward(
            back, across, weight.detach(), None, stride, padding, dilation, False, [0, 0], self.geometry.groups, mask
        )[1]

    def store(self, sigma: Tensor, across: Tensor, norm: Tensor) -> None:
        """Keep σ."""
        self.sigma.copy_(sigma)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W) with W/σ."""
        weight = self.take_precomputed() if self.training else self.weight
        return self._conv_forward(x, weight, self.bias)

    @torch.no_grad()
    def finalize(self) -> None:
        """Store the converged σ and singular vector; eval mode then uses them unchanged."""
        sigma, v = top_singular(self.raw_weight, self.geometry)
        image = self.geometry.forward(v, self.raw_weight.to(v.dtype))
        self.u.copy_(image / image.norm())
        self.sigma.copy_(sigma)

    @torch.no_grad()
    def sigma_error(self) -> float:
        """Return |true norm of the layer in eval mode − 1|; waits for the device.

        From at most 48 Lanczos steps that start at the layer's own vector; training calls it once per epoch.
        """
        start = self.geometry.adjoint(self.u, self.raw_weight)
        sigma, _ = top_singular(self.raw_weight, self.geometry, rounds=2, start=start)
        return abs(float(sigma / self.sigma) - 1.0)
