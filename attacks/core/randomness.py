"""Random draws that belong to the example: the same at any batch size, order or device.

Every example gets a 64-bit key from its own pixels and the seed; a draw is a hash of (key, stream, position),
made by integer arithmetic, so it is bit-equal everywhere and needs no generator state. The mixer is splitmix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor


class Stream(IntEnum):
    """First stream of each use of random numbers; an attack's uses are apart from each other's.

    Uses in different computations may share a number: attacks and evaluations have seeds of their own.
    """

    PGD_START = 0  # plus the number of the run
    NOISE = 0  # plus the number of the draw
    LANCZOS_START = 0
    SECOND_LANCZOS_START = 1
    SECOND_LANCZOS_CHOICE = 2  # which images are measured from the second start too
    SEGMENT_DIRECTION = 3
    LAYER_PROBE = 4
    STABILITY_DIRECTION = 16  # plus the number of the draw
    APGD_CE_START = 1 << 20  # plus restart · classes + rank of the target; the same for the next two
    APGD_DLR_START = 2 << 20
    APGD_TARGETED_START = 3 << 20
    SQUARE_TILE_ORIENTATION = (4 << 20) - 2
    SQUARE_START_SIGN = (4 << 20) - 1
    SQUARE_WINDOWS = 4 << 20  # plus the number of the page
    PGD_RELEASED_START = 5 << 20
    ADAPTIVE_START = 6 << 20
    AUDIT_SAMPLE = 7 << 20
    TRUST_POINT = 8 << 20
    BINARISATION_INNER = 9 << 20  # plus the number of the draw; the same for the next two
    BINARISATION_BOUNDARY = 10 << 20
    BINARISATION_RANDOM = 11 << 20
    DECISION_START = 12 << 20  # plus the number of the start
    DECISION_DIRECTION = 13 << 20  # plus the number of the direction
    CONFIRMED_BUDGETS = 14 << 20  # which survivors of a larger ball are attacked in the smaller ones


def _signed(value: int) -> int:
    """Fold an unsigned 64-bit constant into the signed range of torch.int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX1 = _signed(0xBF58476D1CE4E5B9)
_MIX2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """Scramble int64 values, bijectively; multiplication wraps around modulo 2^64."""
    z = z + _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    return z ^ _shift(z, 31)


def example_keys(x: Tensor, seed: int) -> Tensor:
    """Return one key per example, int64 (B,), from its pixels x (B, …) and the seed, without leaving the device.

    Two examples with the same pixels get the same key: their draws are then equal, as they should be.
    """
    flat = x.detach().reshape(len(x), math.prod(x.shape[1:])).float().contiguous()
    bits = flat.view(torch.int32).to(torch.int64)
    position = torch.arange(bits.shape[1], device=x.device, dtype=torch.int64)
    content = (mix(bits + position * _MIX1) * (mix(position) | 1)).sum(1)  # order of a wrapping sum is irrelevant
    return mix(content ^ mix(torch.full_like(content, _signed(seed))))


def _words(keys: Tensor, stream: int, count: int) -> Tensor:
    """Return `count` scrambled words per key, int64 (B, count)."""
    position = torch.arange(count, device=keys.device, dtype=torch.int64)
    start = mix(keys ^ mix(torch.full_like(keys, _signed(stream))))
    return mix(start[:, None] + position * _GOLDEN)


def uniform(keys: Tensor, stream: int, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uniform draws on [0, 1), shape (B, *shape); another stream gives independent ones.

    The top 24 bits are used in every dtype, so float32 and float64 runs see the same numbers.

    Args:
        keys: of the examples, int64 (B,), from `example_keys`.
        stream: number of the use; see `Stream`.
        shape: of one example's draws.
        dtype: of the result.
    """
    words = _words(keys, stream, math.prod(shape))
    return (_shift(words, 40).to(dtype) * 2.0**-24).reshape(len(keys), *shape)


def normal(keys: Tensor, stream: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal draws, shape (B, *shape), by Box and Muller's transform; arguments as for `uniform`."""
    words = _words(keys, stream, 2 * math.prod(shape))
    u = ((_shift(words, 40).to(torch.float64) + 0.5) * 2.0**-24).reshape(len(keys), 2, math.prod(shape))
    radius = torch.sqrt(-2.0 * torch.log(u[:, 0]))
    return (radius * torch.cos(2 * math.pi * u[:, 1])).to(dtype).reshape(len(keys), *shape)


def integers(keys: Tensor, stream: int, high: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Return integers in [0, high), int64 (B, *shape); arguments as for `uniform`."""
    words = _shift(_words(keys, stream, math.prod(shape)), 24)
    return (words % high).reshape(len(keys), *shape)
