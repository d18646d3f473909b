"""Noise on pixels. Each image has one draw for all severities, so that the damage grows with them."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from bench.attacks.core.randomness import normal, uniform

# Streams of draws; `angles` and fields of other files have the numbers above.
GAUSSIAN: Final = 0
SHOT: Final = 1
IMPULSE_PLACE: Final = 2
IMPULSE_VALUE: Final = 3

_HALF_STEP: Final = 2.0**-25  # uniform draws are multiples of 2^-24; the middle of each step is taken
_TAIL: Final = 10.0  # standard deviations of a Poisson count beyond which no draw of 24 bits lies


def gaussian_noise(x: Tensor, keys: Tensor, sigma: float) -> Tensor:
    """Return x + σ n, n standard normal per pixel and channel.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: of the images, from `example_keys`.
        sigma: standard deviation in pixel units, ≥ 0.
    """
    return x + sigma * normal(keys, GAUSSIAN, tuple(x.shape[1:]), x.dtype)


def shot_noise(x: Tensor, keys: Tensor, variance: float) -> Tensor:
    """Return v·Poisson(x / v): what counting 1/v photons at white gives; its variance at brightness x is v x.

    The count is the quantile of the Poisson distribution at a uniform draw, by summing probabilities in float64.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: of the images.
        variance: v, at white; 0 leaves the image, else at least 0.002: exp(−1/v) must be a float64 above 0.
    """
    if variance == 0:
        return x
    rate = x.double() / variance
    draw = uniform(keys, SHOT, tuple(x.shape[1:]), torch.float64) + _HALF_STEP
    probability = torch.exp(-rate)
    below, count = probability.clone(), torch.zeros_like(rate)
    for k in range(1, math.ceil(1 / variance + _TAIL * math.sqrt(1 / variance) + _TAIL)):
        count += draw >= below
        probability = probability * rate / k
        below += probability
    return (variance * count).to(x.dtype)


def impulse_noise(x: Tensor, keys: Tensor, share: float) -> Tensor:
    """Return x with a share of the pixels, each channel for itself, black or white with equal chances.

    The pixels hit at a smaller share are hit at a larger one too, and become the same.

    Args:
        x: images (B, C, H, W) in [0, 1].
        keys: of the images.
        share: expected share of pixels that are hit, in [0, 1].
    """
    shape = tuple(x.shape[1:])
    hit = uniform(keys, IMPULSE_PLACE, shape) < share
    extreme = (uniform(keys, IMPULSE_VALUE, shape) < 0.5).to(x.dtype)
    return torch.where(hit, extreme, x)
