"""Sound upper bound of a convolution's spectral norm, from the Fourier transform of its kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.models.layers.conv_geometry import ConvGeometry

_BLOCK = 1 << 22  # complex numbers of a convolution's Fourier blocks held at once


@torch.no_grad()
def conv_norm_bound(weight: Tensor, geometry: ConvGeometry) -> float:
    """Return a sound upper bound of the spectral norm of the zero-padded convolution, in float64 where the weight is.

    Claim: ‖conv‖₂ ≤ bound, rounding included; a certificate needs this bound, because power iteration errs low. Holds
    when: padding is zeros. Measured by: one eigenvalue and Cholesky factorisations, in float64. Tolerance: none;
    the bound includes its rounding.

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
    weight = weight.detach().double()
    largest, aliases = 0.0, geometry.stride[0] * geometry.stride[1]
    # Products, Cholesky factors and eigenvalues of n×m blocks are off by a few n·m roundings, relative to λmax.
    rounding = 4 * torch.finfo(torch.float64).eps * weight[:, :, 0, 0].numel() * aliases
    for part in _half_of_the_frequencies(geometry).split(max(1, _BLOCK // (weight[..., 0, 0].numel() * aliases))):
        phases = part.to(weight.device)
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

    One matrix is diagonalised; the Cholesky factorisation of μ − G, many times cheaper, then proves that no eigenvalue
    of the others exceeds μ = λmax(1 + rounding). The one with the largest estimate comes first; those without a proof
    are diagonalised in turn. (Equal ones, as of a 1×1 kernel, are within the rounding.)
    """
    order = _estimates(gram).argsort(descending=True)
    one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
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
    v = torch.linspace(1.0, 2.0, gram.shape[1], dtype=torch.float64).to(gram).expand(len(gram), -1)[..., None]
    for _ in range(rounds):
        v = gram @ v
        v = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return (gram @ v).norm(dim=1).squeeze(1)


def _circular_grid(geometry: ConvGeometry) -> list[int]:
    """Return the smallest periods on which the circular convolution contains the zero-padded one."""
    grid = []
    g = geometry
    for n, m, k, s, p, d in zip(g.in_size, g.out_size, g.kernel, g.stride, g.padding, g.dilation, strict=True):
        first_output, last_output = -p, s * (m - 1) - p
        # Zeros read on the left wrap past the image's end, those on the right stay short of its begin, and no two
        # outputs coincide.
        period = max(n - first_output, last_output + d * (k - 1) + 1, last_output - first_output + 1)
        grid.append(math.ceil(period / s) * s)
    return grid
