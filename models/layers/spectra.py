"""Spectral norms of convolutions as maps on images: to convergence (Lanczos), and as a sound upper bound (Fourier)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Everything about a zero-padded convolution but its weight: the linear map (Cin, H, W) → (Cout, H', W').

    Attributes:
        in_size, out_size: H, W and H', W'.
        kernel, stride, padding, dilation: (vertical, horizontal).
        groups: blocks of channels that do not mix.
    """

    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d, in_size: tuple[int, int], *, authors_size: bool = False) -> ConvGeometry:
        """Return the geometry of a layer that gets inputs (B, Cin, *in_size).

        With `authors_size` the size is instead the one whose transposed convolution has an output of `in_size`
        (2H − 1 for stride 2 and kernel 3, padding 1), as the authors' code does for strided layers.

        Raises:
            ValueError: padding that is not zeros or not numbers, or an image smaller than the kernel.
        """
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(
                f"ConvGeometry: expected zero padding given in pixels, got padding={conv.padding!r}, "
                f"padding_mode={conv.padding_mode!r}. Pad in numbers; other paddings are other linear maps."
            )
        kernel, stride, dilation = _pair(conv.kernel_size), _pair(conv.stride), _pair(conv.dilation)
        padding = _pair(conv.padding)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if authors_size:
            in_size = _pair([(n - 1) * s - 2 * p + r for n, s, p, r in
                             zip(in_size, stride, padding, reach, strict=True)])  # fmt: skip
        out = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(in_size, padding, reach, stride, strict=True)]
        if min(out) < 1:
            raise ValueError(
                f"ConvGeometry: expected an input that the kernel fits in, got {tuple(in_size)} for a reach of "
                f"{tuple(reach)} and padding {padding}. Use a larger image or fewer strided layers."
            )
        return cls(_pair(in_size), _pair(out), kernel, stride, padding, dilation, conv.groups)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply the map without bias: x (B, Cin, H, W) → (B, Cout, H', W')."""
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, u: Tensor, weight: Tensor) -> Tensor:
        """Apply its transpose: u (B, Cout, H', W') → (B, Cin, H, W)."""
        extra = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, s, p, d, k in zip(
                self.in_size, self.out_size, self.stride, self.padding, self.dilation, self.kernel, strict=True
            )
        ]
        return F.conv_transpose2d(u, weight, None, self.stride, self.padding, extra, self.groups, self.dilation)


def _pair(values: object) -> tuple[int, int]:
    """Return (vertical, horizontal) of a layer's setting, typed as what nn.Conv2d stores."""
    first, second = values  # type: ignore[misc]
    return int(first), int(second)


@torch.no_grad()
def top_singular(weight: Tensor, geometry: ConvGeometry, *, basis: int = 24, rounds: int = 20) -> tuple[Tensor, Tensor]:
    """Return the converged spectral norm, shape (), and its right singular vector v (1, Cin, H, W), ‖v‖ = 1.

    Restarted Lanczos on AᵀA with full re-orthogonalisation, from a fixed start (the global generator is not
    touched), until ‖AᵀAv − σ²v‖ ≤ 100 machine epsilons · σ². Like every Krylov method it errs low. In the weight's
    own precision on a CPU, in float64 elsewhere, where TF32 would cost three digits.

    Args:
        weight: (Cout, Cin/groups, kh, kw).
        geometry: the rest of the convolution.
        basis: Krylov vectors per restart (24 images of the input's size are held).
        rounds: restarts at most.
    """
    if weight.device.type != "cpu":
        weight = weight.double()
    start = torch.randn(
        1, weight.shape[1] * geometry.groups, *geometry.in_size,
        generator=torch.Generator().manual_seed(0), dtype=torch.float64,
    )  # fmt: skip
    v = (start / start.norm()).to(weight)
    value = torch.zeros((), dtype=weight.dtype, device=weight.device)
    for _ in range(rounds):
        vectors, images = _krylov(v, weight, geometry, basis)
        values, combinations = torch.linalg.eigh((vectors @ images.T + images @ vectors.T) / 2)
        value, best = values[-1].clamp_min(0), combinations[:, -1]
        v = (best @ vectors).view_as(v)
        residual = (best @ images - value * v.flatten()).norm()
        v = v / v.norm()
        if residual <= 100 * torch.finfo(weight.dtype).eps * value:
            break
    return value.sqrt(), v


def _krylov(v: Tensor, weight: Tensor, geometry: ConvGeometry, size: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal Krylov basis of AᵀA that starts at v, and its image under AᵀA; both (≤ size, n)."""
    size = min(size, v.numel())
    vectors, images = [v.flatten()], []
    while True:
        image = geometry.adjoint(geometry.forward(vectors[-1].view_as(v), weight), weight).flatten()
        images.append(image)
        if len(images) == size:
            break
        known, rest = torch.stack(vectors), image
        for _ in range(2):  # once is not enough in floating point
            rest = rest - known.T @ (known @ rest)
        if rest.norm() <= 10 * torch.finfo(v.dtype).eps * image.norm():
            break  # the space is invariant: small maps end here
        vectors.append(rest / rest.norm())
    return torch.stack(vectors), torch.stack(images)


@torch.no_grad()
def conv_norm_bound(weight: Tensor, geometry: ConvGeometry) -> float:
    """Return a sound upper bound of the spectral norm of the zero-padded convolution, in float64.

    Claim: ‖conv‖₂ ≤ bound (up to float64 rounding), unlike power iteration, which errs low: what a certificate
    must use. The zero-padded map is a part of the circular convolution on a grid of N ≥ max(H + p, last pixel
    read + 1), rounded up to a multiple of the stride, on which the discrete Fourier transform block-diagonalises:
    for stride 1 the bound is max over frequencies of σmax(K(f)); for stride s the s_h·s_w frequencies that alias
    onto one are stacked side by side, over √(s_h·s_w).

    Sedghi, Gupta, Long, "The singular values of convolutional layers", ICLR 2019, for the circular map.

    Args:
        weight: (Cout, Cin/groups, kh, kw).
        geometry: the rest of the convolution; its input size counts.
    """
    out_channels, in_channels = weight.shape[:2]
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    height, width = _circular_grid(geometry)
    kernel = torch.zeros(out_channels, in_channels, height, width, dtype=torch.float64)
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            kernel[:, :, i * dh % height, j * dw % width] += weight[:, :, i, j].double().cpu()
    spectrum = torch.fft.fft2(kernel).view(
        geometry.groups, out_channels // geometry.groups, in_channels, sh, height // sh, sw, width // sw
    )
    blocks = spectrum.permute(0, 4, 6, 1, 2, 3, 5).flatten(4).flatten(0, 2).flatten(2)  # (groups·f, Cout, Cin·s²)
    gram = blocks @ blocks.mH if blocks.shape[1] <= blocks.shape[2] else blocks.mH @ blocks
    return float((torch.linalg.eigvalsh(gram)[:, -1].max().clamp_min(0) / (sh * sw)).sqrt())


def _circular_grid(geometry: ConvGeometry) -> list[int]:
    """Return the smallest periods on which the circular convolution contains the zero-padded one."""
    grid = []
    for n, m, k, s, p, d in zip(
        geometry.in_size, geometry.out_size, geometry.kernel, geometry.stride, geometry.padding,
        geometry.dilation, strict=True,
    ):  # fmt: skip
        first_output, last_output = -p, s * (m - 1) - p
        # zeros read on the left wrap past the image's end, those on the right stay short of its begin,
        # and no two outputs fall together
        period = max(n - first_output, last_output + d * (k - 1) + 1, last_output - first_output + 1)
        grid.append(math.ceil(period / s) * s)
    return grid
