"""Convolution divided by its true spectral norm, that of the linear map on images, not of the flattened kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.layers.dispatch import without_autocast
from bench.models.layers.spectra import ConvGeometry, top_singular

# Iterations at construction, from the authors' code.
WARM_UP = 15
# Side streams that the iterations of a network share in a CUDA graph.
STREAMS = 8


class SpectralNormConv2d(nn.Conv2d):
    """Convolution with weight W/σ, σ = ‖x ↦ conv(x, W)‖₂ on inputs of the given size.

    Srinivas et al. 2022, section 3.4.1, after Ryu et al. 2019. One power iteration per training-mode forward
    (the authors' choice; a step that runs two such forwards makes two), with the layer's own stride, padding,
    dilation and groups:

        v ← convᵀ(u)/‖convᵀ(u)‖,  σ = ‖conv(v)‖,  u ← conv(v)/σ

    σ is differentiable in W with v held constant: its gradient is the weight gradient of the convolution at
    (v, u), so no third convolution is needed. Nothing waits for the device. `weight` is the normalised weight;
    the trained parameter is `raw_weight` (same key order as nn.Conv2d otherwise). In eval mode σ is a stored
    constant: the last step's, or after `finalize` the converged one. Power iteration errs low, so before
    `finalize` the true norm is slightly above 1.

    Under `torch.compile` of torch 2.11 the stored σ is not updated (gradients and u are right; 2.15 stores it):
    call `finalize` before eval mode there, as training does.

    With activation checkpointing the recomputed forward iterates once more and sees a slightly different σ, as
    batch norm's running statistics are then also updated twice.

    Args:
        in_size: height and width of this layer's input; any, also rectangular.
        authors_size: measure strided layers on the authors' larger input (2H − 1 for stride 2), whose output is
            as large as the layer's input; a slight over-estimate (0.978-0.9994 of the bound is reached).

    Raises:
        ValueError: padding other than zeros, or given as a string.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
        *, in_size: tuple[int, int], stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True, authors_size: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.raw_weight = nn.Parameter(self._parameters.pop("weight").detach())
        self.geometry = ConvGeometry.of(self, in_size, authors_size=authors_size)
        u = torch.randn(1, out_channels, *self.geometry.out_size)
        self.register_buffer("u", u / u.norm())
        self.register_buffer("sigma", torch.ones(()))
        self._ahead: _Ahead | None = None  # this forward pass' iteration, if `iterate_together` has made it
        for _ in range(WARM_UP):
            self._iterate(self.raw_weight)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        # `weight` is no stored attribute here; whoever reads it (exports, bounds) gets what the layer applies.
        if name == "weight" and "raw_weight" in self._parameters:
            return self._parameters["raw_weight"] / self._buffers["sigma"]
        return super().__getattr__(name)

    def _iterate(self, weight: Tensor) -> Tensor:
        """Do one power iteration with W, store u and σ, and return σ with its gradient in W; shape ()."""
        geometry = self.geometry
        with without_autocast(weight.device):
            with torch.no_grad():
                v = geometry.adjoint(self.u, weight)
                v = v / v.norm().clamp_min(1e-12)
            image = geometry.forward(v, weight)
            sigma = image.norm().clamp_min(1e-12)
        with torch.no_grad():
            self.u.copy_(image / sigma)
            self.sigma.copy_(sigma)
        return sigma

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W) with W/σ."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            sigma = ahead.take()
        else:
            sigma = self._iterate(self.raw_weight) if self.training else self.sigma
        return self._conv_forward(x, self.raw_weight / sigma, self.bias)

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

        From at most 48 Lanczos steps that begin at the layer's own vector: it is asked for once per epoch.
        """
        start = self.geometry.adjoint(self.u, self.raw_weight)
        sigma, _ = top_singular(self.raw_weight, self.geometry, rounds=2, start=start)
        return abs(float(sigma / self.sigma) - 1.0)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A σ made before its layer is reached, and the stream that it comes from (None: the layer's own)."""

    sigma: Tensor
    stream: Any

    def take(self) -> Tensor:
        """Have the current stream wait for σ, and return it."""
        if self.stream is not None:
            here = torch.cuda.current_stream(self.sigma.device)
            here.wait_stream(self.stream)
            self.sigma.record_stream(here)
        return self.sigma


def iterate_together(network: nn.Module) -> nn.Module:
    """Have a network begin each training-mode forward pass with the power iterations of all its layers.

    They depend neither on the images nor on one another, and are too small to fill a GPU. While a CUDA graph is
    being captured, where their launches cost nothing, they become branches of their own, beside one another and
    beside the first layers; elsewhere they run one after another. The numbers are those of layers left to
    themselves, bit for bit. Not used inside `torch.compile`, which orders operations itself.

    Returns:
        The network.
    """
    if _normalised(network):
        network.register_forward_pre_hook(_begin)
        network.register_forward_hook(_end, always_call=True)
    return network


def _begin(network: nn.Module, inputs: Any) -> None:
    if not network.training or torch.compiler.is_compiling():
        return
    layers = [layer for layer in _normalised(network) if layer.training]
    # A view made here keeps the sum of each weight's gradients on this stream, where the optimiser reads it.
    weights = [layer.raw_weight.view_as(layer.raw_weight) for layer in layers]
    if not layers or not _captured(weights[0]):
        for layer, weight in zip(layers, weights, strict=True):
            layer._ahead = _Ahead(layer._iterate(weight), None)
        return
    here = torch.cuda.current_stream(weights[0].device)
    streams = [torch.cuda.Stream(weights[0].device) for _ in range(min(STREAMS, len(layers)))]
    for stream in streams:
        stream.wait_stream(here)
    for i, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
        with torch.cuda.stream(streams[i % len(streams)]):
            layer._ahead = _Ahead(layer._iterate(weight), streams[i % len(streams)])


def _end(network: nn.Module, inputs: Any, output: Any) -> None:
    """Join the branches of layers that this pass did not come by, which a capture must not leave open."""
    for layer in _normalised(network):
        if layer._ahead is not None:
            layer._ahead.take()
            layer._ahead = None


def _normalised(network: nn.Module) -> list[SpectralNormConv2d]:
    return [m for m in network.modules() if isinstance(m, SpectralNormConv2d)]


def _captured(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
