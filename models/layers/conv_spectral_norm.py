"""Convolution with weight W/σ, σ = ‖x ↦ conv(x, W)‖₂: the true norm of the map on images, not of the flattened kernel.

Srinivas et al. 2022, section 3.4.1, after Ryu et al. 2019. `SpectralNormConv2d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from bench.core.torch_state import functorch_active, without_autocast
from bench.models.layers.conv_geometry import ConvGeometry
from bench.models.layers.conv_lanczos import top_singular
from bench.models.layers.precompute import PrecomputedWeight

# At construction, from the authors' code.
INITIAL_POWER_ITERATIONS = 15
INITIAL_RESTARTS = 8  # of Lanczos, for σ before the first training step: relative error below 1e-5
TINY = 1e-18  # added to norms, below the last digit of any that matters: a weight of 0 stays 0

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
_convolution_backward = torch.ops.aten.convolution_backward


class _Normalise(torch.autograd.Function):
    """One power iteration of several layers, and W ↦ W/σ with σ = ⟨u, conv(v; W)⟩, u and v held constant.

    With S = ∂σ/∂W, the weight gradient of the convolution at (v, u), and Ŵ = W/σ, the gradient is
    (g − ⟨g, Ŵ⟩·S)/σ: fewer operations than autograd's, whose number is what a step on small images costs.
    """

    @staticmethod
    def forward(ctx: Any, layers: Sequence[SpectralNormConv2d], *weights: Tensor) -> tuple[Tensor, ...]:
        vs, v_norms, us, u_norms, sigmas = _iterate(layers, weights)
        normalised = torch._foreach_div(weights, sigmas)
        ctx.geometries = [layer.geometry for layer in layers]
        ctx.save_for_backward(*weights, *sigmas, *us, *vs, *torch._foreach_mul(u_norms, v_norms), *normalised)
        return tuple(normalised)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        n, saved = len(grads), ctx.saved_tensors
        weights, sigmas, us, vs, norms, normalised = (saved[i * n : (i + 1) * n] for i in range(6))
        slopes = [_weight_gradient(*given) for given in zip(us, vs, weights, ctx.geometries, strict=True)]
        if torch.is_grad_enabled():  # to be differentiated again: σ and W/σ as functions of W
            each = zip(grads, weights, torch._foreach_div(slopes, norms), strict=True)
            return None, *[_pulled_back(grad, weight, slope) for grad, weight, slope in each]
        dots = [torch.dot(g.reshape(-1), w.reshape(-1)) for g, w in zip(grads, normalised, strict=True)]
        along = torch._foreach_div(dots, norms)
        rest = [torch.addcmul(g, s, a, value=-1) for g, s, a in zip(grads, slopes, along, strict=True)]
        torch._foreach_div_(rest, sigmas)
        return None, *rest


def _pulled_back(grad: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient in W of ⟨grad, W/σ⟩, σ = ⟨slope, W⟩, differentiable in grad and W."""
    sigma = (slope * weight).sum() + TINY
    return (grad - (grad * (weight / sigma)).sum() * slope) / sigma


@torch.no_grad()
def _iterate(
    layers: Sequence[SpectralNormConv2d], weights: Sequence[Tensor]
) -> tuple[_Tensors, _Tensors, _Tensors, _Tensors, _Tensors]:
    """Do one power iteration of each layer with W and store its u and σ.

    Returns:
        v (1, Cin, H, W) and their norms, u (1, Cout, H', W') and their norms, and σ; the vectors are not divided by
        their norms.
    """
    vs = [layer.geometry.adjoint(layer.u, weight) for layer, weight in zip(layers, weights, strict=True)]
    us = [layer.geometry.forward(v, weight) for layer, v, weight in zip(layers, vs, weights, strict=True)]
    v_norms, u_norms = torch._foreach_norm(vs), torch._foreach_norm(us)
    torch._foreach_add_(v_norms, TINY)
    torch._foreach_add_(u_norms, TINY)
    torch._foreach_copy_([layer.u for layer in layers], torch._foreach_div(us, u_norms))
    sigmas = torch._foreach_div(u_norms, v_norms)
    torch._foreach_copy_([layer.sigma for layer in layers], sigmas)
    return vs, v_norms, us, u_norms, sigmas


@torch.no_grad()
def _weight_gradient(u: Tensor, v: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the gradient of ⟨u, conv(v; W)⟩ in W, in the shape of W; it does not depend on W."""
    stride, padding, dilation = geometry.stride, geometry.padding, geometry.dilation
    mask = [False, True, False]
    return _convolution_backward(
        u, v, weight.detach(), None, stride, padding, dilation, False, [0, 0], geometry.groups, mask
    )[1]


class SpectralNormConv2d(PrecomputedWeight, nn.Conv2d):
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

    def precompute(self, source: Tensor) -> Tensor:
        """Do one power iteration with W, store u and σ, and return W/σ with its gradient in W.

        Args:
            source: W, (Cout, Cin/groups, kh, kw).

        Returns:
            W/σ, in the shape of W.
        """
        return self.precompute_together([self], [source])[0]

    @classmethod
    def precompute_together(cls, layers: Sequence[PrecomputedWeight], sources: Sequence[Tensor]) -> list[Tensor]:
        """Do what `precompute` does for several layers; arguments as in `PrecomputedWeight`."""
        convs = [layer for layer in layers if isinstance(layer, SpectralNormConv2d)]
        with without_autocast(sources[0].device):
            if not torch.compiler.is_compiling() and not functorch_active():
                return list(_Normalise.apply(convs, *sources))
            vs, v_norms, us, u_norms, _ = _iterate(convs, sources)
            each = zip(convs, sources, torch._foreach_div(vs, v_norms), torch._foreach_div(us, u_norms), strict=True)
            return [w / ((conv.geometry.forward(v, w) * u).sum() + TINY) for conv, w, v, u in each]

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
