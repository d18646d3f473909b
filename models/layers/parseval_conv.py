"""Convolution of a Parseval network: the kernel's rows are orthonormal, the output is divided by the windows' overlap.

Cisse, Bojanowski, Grave, Dauphin, Usunier 2017. `ParsevalConv2d`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.layers.conv_arguments import pair


class ParsevalConv2d(nn.Conv2d):
    """Convolution divided by √(kh·kw), with an orthogonal initial kernel (Cout, Cin·kh·kw).

    Each pixel is read by at most kh·kw windows, so the norm of the map on images is at most the spectral norm of the
    reshaped kernel, which is 1 where its rows or columns are orthonormal.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: side of the kernel.
        in_size: (H, W) of the input; unused.
        stride: as in nn.Conv2d.
        padding: pixels of zeros, as in nn.Conv2d.
        bias: as in nn.Conv2d.
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
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.in_size = in_size
        nn.init.orthogonal_(self.weight)
        kh, kw = pair(self.kernel_size)
        self.overlap = (kh * kw) ** 0.5

    def deviation(self) -> Tensor:
        """Return ‖WᵀW − I‖_F² of the reshaped kernel, of the smaller of its two products, shape ()."""
        matrix = self.weight.flatten(1)
        product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        return (product - torch.eye(len(product), dtype=product.dtype, device=product.device)).square().sum()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, Cin, H, W)."""
        return self._conv_forward(x, self.weight / self.overlap, self.bias)
