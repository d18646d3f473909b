"""Blur by a disk and along a line, with lengths as shares of the shorter side: the same look at any image size.

A kernel is the mean, over points of the shape, of bilinear interpolation at that point: smooth in the size, the
identity at size 0, sum 1. What lies beyond the border is the border's own pixel.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from bench.attacks.core.randomness import uniform

ANGLE: Final = 4  # stream of draws
_GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))
_POINTS: Final = 16  # per pixel of a disk's square, and per pixel of a line


def defocus_blur(x: Tensor, keys: Tensor, radius: float) -> Tensor:
    """Return x averaged over a disk.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: unused; nothing is drawn.
        radius: of the disk, as a share of the shorter side, ≥ 0.
    """
    pixels = radius * min(x.shape[-2:])
    return filtered(x, kernels(disk(pixels).to(x.device)[None], pixels))


def motion_blur(x: Tensor, keys: Tensor, length: float) -> Tensor:
    """Return x averaged along a line through each pixel, in a direction that is drawn per image.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: of the images.
        length: of the line, as a share of the shorter side, ≥ 0.
    """
    pixels = length * min(x.shape[-2:])
    angle = math.pi * uniform(keys, ANGLE, (1,), torch.float64)
    direction = torch.stack([angle.sin(), angle.cos()], dim=2)  # (B, 1, 2): rows, columns
    return filtered(x, kernels(line(pixels).to(x.device)[None, :, None] * direction, pixels / 2))


def disk(radius: float) -> Tensor:
    """Return points spread evenly over a disk, (N, 2) float64, with each its opposite: a sunflower's spiral.

    Args:
        radius: of the disk, in pixels.
    """
    n = _POINTS * math.ceil(2 * radius + 1) ** 2
    i = torch.arange(n, dtype=torch.float64)
    far, turn = radius * torch.sqrt((i + 0.5) / n), i * _GOLDEN_ANGLE
    points = torch.stack([far * torch.sin(turn), far * torch.cos(turn)], dim=1)
    return torch.cat([points, -points])


def line(length: float) -> Tensor:
    """Return places spread evenly over a line about 0, (N,) float64.

    Args:
        length: of the line, in pixels.
    """
    n = _POINTS * math.ceil(length + 1)
    return length * ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5)


def kernels(points: Tensor, reach: float) -> Tensor:
    """Return the mean over points of the weights of bilinear interpolation there, (B, k, k), each with the sum 1.

    Args:
        points: (B, N, 2) in pixels from the kernel's middle, rows and columns.
        reach: how far the farthest lies.
    """
    half = math.ceil(reach) if reach else 0
    grid = torch.arange(-half, half + 1, dtype=points.dtype, device=points.device)
    weights = (1 - (grid - points[..., None]).abs()).clamp(min=0)  # (B, N, 2, k)
    return torch.einsum("bni,bnj->bij", weights[:, :, 0], weights[:, :, 1]) / points.shape[1]


def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Return images convolved with kernels by the Fourier transform, each image for itself.

    Args:
        x: images (B, C, H, W).
        kernel: one for all or one per image, (1 or B, k, k) with k odd.
    """
    half = kernel.shape[-1] // 2
    if not half:
        return x
    wide = pad(x, (half,) * 4, mode="replicate")
    size = wide.shape[-2:]
    spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel.to(x.dtype), s=size)[:, None]
    return torch.fft.irfft2(spectrum, s=size)[..., 2 * half :, 2 * half :]
