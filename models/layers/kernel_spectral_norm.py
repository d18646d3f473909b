"""Convolution whose reshaped kernel has spectral norm 1 (Miyato et al. 2018). `KernelSpectralNormConv2d`."""

from __future__ import annotations

from bench.models.layers.conv_arguments import pair
from bench.models.layers.conv_spectral_norm import SpectralNormConv2d


class KernelSpectralNormConv2d(SpectralNormConv2d):
    """Convolution with weight W/σ, σ the spectral norm of the kernel as a matrix (Cout, Cin·k·k).

    That matrix is the convolution of a single window of k×k pixels. The norm of the map on images is another number:
    up to k times as large where windows overlap, and less than σ for some kernels.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: side of the kernel.
        in_size: (H, W) of the input; it does not change σ.
        stride: as in nn.Conv2d.
        padding: pixels of zeros, as in nn.Conv2d.
        bias: as in nn.Conv2d; the bias is not normalised.

    Attributes:
        geometry: the linear map of one window.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        in_size: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, in_size=pair(kernel_size), bias=bias)
        self.in_size, self.stride, self.padding = in_size, pair(stride), pair(padding)
