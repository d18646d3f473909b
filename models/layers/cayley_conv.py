"""Orthogonal convolution by the Cayley transform, and the activation that goes with it.

Trockman, Kolter 2021, "Orthogonalizing Convolutional Layers with the Cayley Transform". `CayleyConv2d`, `MaxMin`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.torch_state import without_autocast
from bench.models.layers.precompute import PrecomputedWeight


def cayley(w: Tensor) -> Tensor:
    """Return a matrix with orthonormal columns (rows, if it is wide) for every matrix of a batch.

    With W = [U; V], U square, and A = U − Uᴴ + VᴴV: [(I + A)⁻¹(I − A); −2V(I + A)⁻¹] (equation (8) of the paper; V is
    absent where W is square). I + A is invertible, because A + Aᴴ = 2VᴴV is positive semidefinite.

    Args:
        w: (..., rows, columns), real or complex.
    """
    rows, columns = w.shape[-2:]
    if columns > rows:
        return cayley(w.mH).mH
    square, rest = w[..., :columns, :], w[..., columns:, :]
    one = torch.eye(columns, dtype=w.dtype, device=w.device)
    a = square - square.mH + rest.mH @ rest
    inverse = torch.linalg.inv(one + a)
    return torch.cat([inverse @ (one - a), -2 * rest @ inverse], -2)


def spectral_product(x: Tensor, spectrum: Tensor) -> Tensor:
    """Return the circular convolution whose Fourier transform is one matrix per frequency.

    Args:
        x: images (B, Cin, H, W).
        spectrum: Q, (H, W//2 + 1, Cout, Cin), complex.

    Returns:
        (B, Cout, H, W).
    """
    transformed = torch.einsum("hwoc,bchw->bohw", spectrum, torch.fft.rfft2(x))
    return torch.fft.irfft2(transformed, s=x.shape[-2:])


class _ConstantSpectralConv(torch.autograd.Function):
    """`spectral_product` with a constant spectrum: one linear map, whose transpose has the spectrum Qᴴ.

    The node of the graph keeps Q, so that the norm of the operation can be read off it (`bench.numerics.op_norms`).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, spectrum: Tensor) -> Tensor:
        return spectral_product(x, spectrum)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (spectrum,) = ctx.saved_tensors
        return cast(Tensor, _ConstantSpectralConv.apply(grad, spectrum.mH)), None

    @staticmethod
    def jvp(ctx: Any, x: Tensor, _: None) -> Tensor:
        (spectrum,) = ctx.saved_tensors
        return spectral_product(x, spectrum)


class CayleyConv2d(PrecomputedWeight, nn.Module):
    """Convolution with circular padding that preserves distances, or is the part of such a map that its widths allow.

    At each frequency the kernel's Fourier transform is replaced by its Cayley transform. A stride s reads the s×s
    pixels of a window as channels (invertible downsampling, as in the paper), with a row or column of zeros where the
    image is not a multiple of s. Outputs as many as inputs or more: ‖y − y'‖ = ‖x − x'‖; fewer: ‖y − y'‖ ≤ ‖x − x'‖.
    Differs from the authors' code: the kernel is not divided by its norm and multiplied by a learnt one.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: odd side of the kernel, on the downsampled image.
        in_size: (H, W) of the input.
        stride: s, the same vertically and horizontally.
        bias: whether a number per output channel is added.

    Attributes:
        raw_weight: the trained kernel, (Cout, Cin·s², k, k).
        bias: (Cout,) or None.
    """

    precomputed_from: ClassVar[str] = "raw_weight"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        in_size: tuple[int, int],
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.kernel_size = stride, kernel_size
        self.size = (-(-in_size[0] // stride), -(-in_size[1] // stride))
        channels = in_channels * stride**2
        self.raw_weight = nn.Parameter(torch.empty(out_channels, channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.raw_weight, a=5**0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def precompute(self, source: Tensor) -> Tensor:
        """Return Q(ω) of a kernel, (H', W'//2 + 1, Cout, Cin·s²), complex.

        Args:
            source: W, (Cout, Cin·s², k, k).
        """
        with without_autocast(source.device):
            kernel = source.new_zeros(*source.shape[:2], *self.size)
            reach = self.kernel_size // 2
            for i in range(self.kernel_size):
                for j in range(self.kernel_size):  # pixels of a kernel that is larger than the image meet
                    kernel[:, :, (i - reach) % self.size[0], (j - reach) % self.size[1]] += source[:, :, i, j]
            return cayley(torch.fft.rfft2(kernel).permute(2, 3, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (B, Cin, H, W), (B, Cout, H', W')."""
        spectrum = self.take_precomputed() if self.training else self.precompute(self.raw_weight)
        rows, columns = (-n % self.stride for n in x.shape[-2:])
        if rows or columns:
            x = F.pad(x, (0, columns, 0, rows))
        if self.stride > 1:
            x = F.pixel_unshuffle(x, self.stride)
        with without_autocast(x.device):
            product = spectral_product if spectrum.requires_grad else _ConstantSpectralConv.apply
            y: Tensor = product(x, spectrum)  # type: ignore[operator]
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class MaxMin(nn.Module):
    """Sort each pair of channels: the activation that keeps the norm of gradients (Anil, Lucas, Grosse 2019).

    1-Lipschitz, not differentiable where two channels of a pair are equal. An odd channel at the end is kept as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, ...) with channels 2i and 2i + 1 in ascending order."""
        paired = x.shape[1] // 2 * 2
        pairs = x[:, :paired].reshape(len(x), paired // 2, 2, *x.shape[2:])
        ordered = pairs.sort(2).values.reshape(len(x), paired, *x.shape[2:])
        return ordered if paired == x.shape[1] else torch.cat([ordered, x[:, paired:]], 1)
