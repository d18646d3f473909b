"""The windows of the Square attack: where they lie, what goes into them, and the patterns that it starts from."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bench.attacks.core import balls, randomness
from bench.attacks.core.randomness import Stream

HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which p is halved, section 3.2


def window_side(query: int, image: tuple[int, int], p: float, norm: str) -> int:
    """Return the side of the window at a query: its area is the share p of the image, p halved by schedule.

    Args:
        query: number of the query, from 0.
        image: height and width in pixels.
        p: share of the pixels that the first windows cover.
        norm: "l2" or "linf"; l2's sides are odd and at least 3.
    """
    share = p / 2 ** sum(query > h for h in HALVINGS)
    side = round(math.sqrt(share * image[0] * image[1]))
    side = max(side, 1) if norm == "linf" else max(side, 3) | 1  # l2: odd, at least 3
    return min(side, *image)


@dataclass
class Windows:
    """The windows of a block of Q queries for n examples, as full images, so that a query needs no indexing.

    Attributes:
        first: (Q, n, 1, H, W), 1 inside the window, 0 outside.
        either: (Q, n, 1, H, W), 1 inside the window or the one that it takes mass from (l2).
        change: (Q, n, C, H, W), what goes into the window: signs (linf) or signed patterns (l2), else 0.
    """

    first: Tensor
    either: Tensor
    change: Tensor

    @classmethod
    def place(cls, draws: Tensor, image: tuple[int, int], side: int, norm: str) -> Windows:
        """Turn uniform draws into windows; all positions inside the image are equally likely.

        Args:
            draws: uniform on [0, 1), (n, Q, 5 + C): two corners, an orientation (l2), a sign per channel.
            image: height and width in pixels.
            side: of the windows.
            norm: "l2" or "linf".

        Returns:
            One window per draw.
        """
        height, width = image
        draws = draws.transpose(0, 1)
        span = torch.tensor([height, width, height, width], device=draws.device) - side + 1
        corner = (draws[..., :4] * span).long()
        offsets = [
            torch.arange(length, device=draws.device) - corner[..., i : i + 1]
            for i, length in enumerate((height, width, height, width))
        ]
        first = _box(offsets[0], offsets[1], side).to(draws.dtype)
        sign = torch.where(draws[..., 5:] < 0.5, -1.0, 1.0).to(draws.dtype)[..., None, None]
        if norm == "linf":
            return cls(first, first, sign * first)
        row, column = (offset.clamp(0, side - 1) for offset in offsets[:2])
        bumps = two_bumps(side).to(draws)
        turned = (draws[..., 4] < 0.5)[..., None, None]
        at = torch.where(
            turned, column[..., None, :] * side + row[..., :, None], row[..., :, None] * side + column[..., None, :]
        )
        pattern = bumps.flatten()[at][:, :, None] * first
        second = _box(offsets[2], offsets[3], side).to(draws.dtype)
        return cls(first, torch.maximum(first, second), sign * pattern)

    def at(self, query: int | Tensor, rows: Tensor | None = None) -> Windows:
        """Return the windows of one query, (n, …), or those of several (n, S) of each example at `rows` (n, 1)."""
        place = query if rows is None else (query, rows)
        return Windows(self.first[place], self.either[place], self.change[place])

    def propose(self, delta: Tensor, eps: float, norm: str) -> Tensor:
        """Return the perturbations (n, C, H, W) after the query whose windows these are."""
        if norm == "linf":
            return torch.addcmul(eps * self.change, delta, 1 - self.first)
        return move_mass(delta, self.first, self.either, self.change, eps)

    def keep(self, places: Tensor) -> Windows:
        """Return the windows of the examples at some places (k,) among the n."""
        return Windows(self.first[:, places], self.either[:, places], self.change[:, places])


def _box(row: Tensor, column: Tensor, side: int) -> Tensor:
    """Return where both offsets (Q, n, H) and (Q, n, W) from the corner are in [0, side), bool (Q, n, 1, H, W)."""
    inside_row, inside_column = ((offset >= 0) & (offset < side) for offset in (row, column))
    return (inside_row[..., :, None] & inside_column[..., None, :])[:, :, None]


def move_mass(delta: Tensor, first: Tensor, either: Tensor, change: Tensor, eps: float) -> Tensor:
    """Return the l2 perturbations (n, C, H, W) after one query: algorithm 3, on the sphere of radius eps.

    Args:
        delta: the perturbations before, (n, C, H, W).
        first: the windows, (n, 1, H, W); see `Windows` for this and the next two.
        either: the windows and those that they take mass from, (n, 1, H, W).
        change: the signed patterns, (n, C, H, W).
        eps: radius.
    """
    old = delta * first
    new = torch.addcdiv(change, old, _length(old, (2, 3)))
    taken = delta * either
    spare = (eps * eps - _length(delta, (1, 2, 3)).square()).clamp_min(0) / delta.shape[1]
    mass = (spare + _length(taken, (2, 3)).square()).sqrt()
    moved = torch.addcmul(delta - taken, new, mass / _length(new, (2, 3)))
    return moved * (eps / _length(moved, (1, 2, 3)))


def _length(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the l2 norm over some dimensions, kept, away from zero."""
    return torch.linalg.vector_norm(values, dim=dims, keepdim=True) + 1e-12


@functools.cache
def two_bumps(side: int) -> Tensor:
    """Return the pattern of unit l2 norm (side, side): a positive bump above a negative one; eq. (2) of the paper."""
    top = side // 2
    pattern = torch.cat([_bump(top, side), -_bump(side - top, side)])
    return pattern / pattern.square().sum().sqrt()


def _bump(height: int, width: int) -> Tensor:
    """Return a pattern of unit norm that falls with the distance m from its center like the tail sum of 1/k²."""
    reach = max(height // 2, width // 2) + 1
    tail = (1.0 / torch.arange(1, reach + 1).square()).flip(0).cumsum(0).flip(0)
    row = (torch.arange(height) - height // 2).abs()
    column = (torch.arange(width) - width // 2).abs()
    pattern = tail[torch.maximum(row[:, None], column[None, :])] if height else torch.zeros(0, width)
    return pattern / pattern.square().sum().sqrt().clamp_min(1e-12)


def stripes(x: Tensor, keys: Tensor, eps: float) -> Tensor:
    """Return the linf start (n, C, H, W): vertical stripes of ± eps, a sign per column and channel."""
    _, channels, _, width = x.shape
    sign = randomness.integers(keys, Stream.SQUARE_START_SIGN, 2, (channels, 1, width))
    return (eps * (2 * sign - 1).to(x.dtype)).expand_as(x)


def tiles(x: Tensor, keys: Tensor, eps: float) -> Tensor:
    """Return the l2 start (n, C, H, W): a grid of patterns a fifth of the image high, a sign per tile and channel."""
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    sign = 2 * randomness.integers(keys, Stream.SQUARE_START_SIGN, 2, (channels, down, across)).to(x.dtype) - 1
    turned = randomness.uniform(keys, Stream.SQUARE_TILE_ORIENTATION, (1, down, across), x.dtype) < 0.5
    bumps = two_bumps(side).to(x)
    pattern = torch.where(turned[..., None, None], bumps.T, bumps) * sign[..., None, None]
    tiled = pattern.transpose(3, 4).reshape(n, channels, down * side, across * side)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    start = torch.zeros_like(x)
    start[:, :, top : top + down * side, left : left + across * side] = tiled
    return eps * balls.ascent(start, "l2")
