"""Spectral norms of convolutions as maps on images: to convergence (Lanczos), and as a sound upper bound (Fourier)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BLOCK = 1 << 22  # complex numbers of a convolution's Fourier blocks held at once


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


def _pair(values: Any) -> tuple[int, int]:
    """Return (vertical, horizontal) of a layer's setting, which nn.Conv2d types more widely than it stores it."""
    first, second = values
    return int(first), int(second)


@torch.no_grad()
def top_singular(
    weight: Tensor, geometry: ConvGeometry, *, basis: int = 24, rounds: int = 20, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the converged spectral norm, shape (), and its right singular vector v (1, Cin, H, W), ‖v‖ = 1.

    Restarted Lanczos on AᵀA with full re-orthogonalisation, from a fixed start (the global generator is not
    touched), until ‖AᵀAv − σ²v‖ ≤ 100 machine epsilons · σ². Like every Krylov method it errs low. In the weight's
    own precision on a CPU, in float64 elsewhere, where TF32 would cost three digits.

    Args:
        weight: (Cout, Cin/groups, kh, kw).
        geometry: the rest of the convolution.
        basis: Krylov vectors per restart (24 images of the input's size are held).
        rounds: restarts at most.
        start: where to begin, (1, Cin, H, W), not 0; None: a fixed random vector.
    """
    if weight.device.type != "cpu":
        weight = weight.double()
    if start is None:
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

    Claim: ‖conv‖₂ ≤ bound, rounding included, unlike power iteration, which errs low: what a certificate must use.
    The zero-padded map is a part of the circular convolution on a grid of N ≥ max(H + p, last pixel read + 1),
    rounded up to a multiple of the stride, on which the discrete Fourier transform block-diagonalises: for stride 1
    the bound is max over frequencies of σmax(K(f)); for stride s the s_h·s_w frequencies that alias onto one are
    stacked side by side, over √(s_h·s_w). The kernel is real, so K(−f) is the conjugate of K(f): half of the
    frequencies are enough.

    Sedghi, Gupta, Long, "The singular values of convolutional layers", ICLR 2019, for the circular map.

    Args:
        weight: (Cout, Cin/groups, kh, kw).
        geometry: the rest of the convolution; its input size counts.
    """
    weight = weight.detach().cpu().double()
    largest, aliases = 0.0, geometry.stride[0] * geometry.stride[1]
    # Products, Cholesky factors and eigenvalues of n×m blocks are off by a few n·m roundings, relative to λmax.
    rounding = 4 * torch.finfo(torch.float64).eps * weight[:, :, 0, 0].numel() * aliases
    for phases in _half_of_the_frequencies(geometry).split(max(1, _BLOCK // (weight[..., 0, 0].numel() * aliases))):
        blocks = _symbols(weight, phases, geometry.groups)
        gram = blocks @ blocks.mH if blocks.shape[1] <= blocks.shape[2] else blocks.mH @ blocks
        largest = _largest_eigenvalue(gram, largest, rounding)
    return math.sqrt(largest * (1 + 4 * rounding) / aliases)


def _half_of_the_frequencies(geometry: ConvGeometry) -> Tensor:
    """Return e^{−2πi f·tap} for one of each pair ±f of folded frequencies, (F, aliases, kh·kw)."""
    axes = []
    for period, s, k, d in zip(
        _circular_grid(geometry), geometry.stride, geometry.kernel, geometry.dilation, strict=True
    ):
        folded = torch.arange(period // s)[:, None, None] + period // s * torch.arange(s)[:, None]
        turns = (folded * (d * torch.arange(k)) % period).double() / period  # exact before the division
        axes.append(torch.polar(torch.ones_like(turns), -2 * math.pi * turns))
    vertical, horizontal = axes
    horizontal = horizontal[: horizontal.shape[0] // 2 + 1]  # the others' conjugates are here, at −f of both axes
    phases = torch.einsum("aij,bkl->abikjl", vertical, horizontal)
    return phases.flatten(4).flatten(2, 3).flatten(0, 1)


def _symbols(weight: Tensor, phases: Tensor, groups: int) -> Tensor:
    """Return K(f), aliases side by side, for every group and frequency: (groups·F, Cout/groups, Cin/groups·aliases)."""
    taps = weight.flatten(2).to(phases.dtype).unflatten(0, (groups, -1))
    return torch.einsum("goit,fat->gfoia", taps, phases).flatten(3).flatten(0, 1)


def _largest_eigenvalue(gram: Tensor, known: float, rounding: float) -> float:
    """Return the largest eigenvalue of Hermitian positive semidefinite matrices (F, n, n), or `known` if larger.

    One matrix is diagonalised; the Cholesky factorisation of μ − G, many times cheaper, then proves of the others
    that nothing of them exceeds μ = λmax(1 + rounding). The likeliest goes first; those without a proof are
    diagonalised in turn. (Equal ones, as of a 1×1 kernel, fall under the rounding.)
    """
    order = _estimates(gram).argsort(descending=True)
    one = torch.eye(gram.shape[1], dtype=gram.dtype)
    best = known
    while len(order):
        if best:
            failed = torch.linalg.cholesky_ex(best * (1 + rounding) * one - gram[order]).info != 0
            order = order[failed]
            if not len(order):
                break
        best = max(best, float(torch.linalg.eigvalsh(gram[order[0]])[-1]))
        order = order[1:]
    return best


def _estimates(gram: Tensor, rounds: int = 6) -> Tensor:
    """Return rough lower estimates of the largest eigenvalues, by power iteration from a fixed start, (F,)."""
    v = torch.linspace(1.0, 2.0, gram.shape[1], dtype=torch.float64).to(gram.dtype).expand(len(gram), -1)[..., None]
    for _ in range(rounds):
        v = gram @ v
        v = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return (gram @ v).norm(dim=1).squeeze(1)


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
