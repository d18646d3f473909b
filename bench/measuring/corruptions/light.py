"""Changes of light: brightness, contrast, and a haze of uneven density."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.attacks.core.randomness import uniform

HAZE: Final = 5  # first stream of draws, one more per octave
OCTAVES: Final = 4  # grids of 2, 3, 5 and 9 points a side


def brightness(x: Tensor, keys: Tensor, added: float) -> Tensor:
    """Return x + b in every pixel and channel.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: unused; nothing is drawn.
        added: b, in pixel units.
    """
    return x + added


def contrast(x: Tensor, keys: Tensor, lost: float) -> Tensor:
    """Return m + (1 − s)(x − m), m the image's mean over pixels and channels.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: unused; nothing is drawn.
        lost: s, the share of contrast that is lost, in [0, 1].
    """
    return x.lerp(x.mean((1, 2, 3), keepdim=True), lost)


def haze(x: Tensor, keys: Tensor, density: float) -> Tensor:
    """Return x + d(1 − x), white light scattered in with the density d = density·(1 + u)/2 at each place.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: of the images.
        density: the largest there can be, in [0, 1]; the smallest is half of it.
    """
    here = density * (1 + cloud(keys, (x.shape[-2], x.shape[-1])).to(x.dtype)) / 2
    return x + here * (1 - x)


def cloud(keys: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a smooth random field u in [0, 1], (B, 1, H, W) float64.

    Sum of octaves: uniform draws on a grid of 2^k + 1 points a side, interpolated bilinearly, weighted by 2^-k.

    Args:
        keys: of the images.
        size: (H, W).
    """
    total = torch.zeros(len(keys), 1, *size, dtype=torch.float64, device=keys.device)
    for k in range(OCTAVES):
        draws = uniform(keys, HAZE + k, (1, 2**k + 1, 2**k + 1), torch.float64)
        total += 2.0**-k * interpolate(draws, size, mode="bilinear", align_corners=True)
    return total / sum(2.0**-k for k in range(OCTAVES))
