"""Square: random search with localised square changes; asks only for logits."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, frozen, losses, randomness, search
from bench.core.decorators import attack

STREAM: Final = 4 << 20
HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries after which p is halved, section 3.2
PAGE: Final = 100  # queries whose random numbers are drawn at once
BLOCK: Final = 1 << 21  # numbers per block of windows: bounds the memory


@attack(source="Andriushchenko et al. 2020, 'Square Attack', algorithms 1-3")
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    queries: int = 5000,
    p: float = 0.8,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Run the Square attack on the margin loss and return the worst point met.

    Each query changes one square window, and is kept if the margin falls. linf: the window is set to x ± eps,
    one sign per channel. l2: the mass of two windows and the unused budget go into the first one, as a pattern
    with a positive and a negative half. What differs from the authors' code: every example has windows of its
    own, so that the result does not depend on the batch; windows may touch the last row and column; images
    under 5 pixels work; an example stops when it is broken.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the windows and signs.
        queries: 5,000, as in AutoAttack.
        p: share of the pixels that the first windows cover; 0.8 in AutoAttack. It is halved at fixed queries.
        trace: is given `margin` (B,), the best margin loss.

    Raises:
        ValueError: unknown norm, or x is not (B, C, H, W).
        FloatingPointError: NaN or infinity in logits.
    """
    balls.check_norm("square", norm)
    if x.ndim != 4:
        raise ValueError(f"square: expected images (B, C, H, W), got shape {tuple(x.shape)}. Reshape them.")
    keys = randomness.example_keys(x, seed)
    with frozen.frozen_eval(model), torch.no_grad():
        model = folding.fold_constants(model, x, queries)
        best = search.Best("square", model, x, y)
        rows = best.open()
        if len(rows):
            _search(model, x, y, rows, keys, best, eps, norm, queries, p)
    if trace is not None:
        trace["margin"] = best.margin
    return best.result()


def _search(
    model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, keys: Tensor, best: search.Best,
    eps: float, norm: str, queries: int, p: float,
) -> None:  # fmt: skip
    """Search from the starting pattern; `delta` (n, C, H, W) is the accepted perturbation of the open examples."""
    every, (channels, height, width) = search.check_interval(x), x.shape[1:]
    x0, goal, keys, eps = x[rows], y[rows], keys[rows], balls.inner(x, eps, norm)
    delta = balls.into(x0, x0 + (_stripes if norm == "linf" else _tiles)(x0, keys, eps), eps, norm) - x0
    margin = best.see(rows, x0 + delta, model(x0 + delta))
    poison = torch.zeros_like(margin)  # turns NaN or infinite when a margin does: one sum instead of a check a query
    query = 0
    while query < queries and len(rows):
        page = query // PAGE
        draws = randomness.uniform(keys, STREAM + page, (PAGE, 5 + channels), x.dtype)[:, query - page * PAGE :]
        room = max(1, BLOCK // (len(rows) * height * width))
        until = min(queries, query + room, (page + 1) * PAGE, *(h + 1 for h in HALVINGS if h >= query))
        side = window_side(query, (height, width), p, norm)
        windows = _Windows.place(draws[:, : until - query], (height, width), side, norm)
        for i in range(until - query):
            first, change = windows.first[i], windows.change[i]
            if norm == "linf":
                trial = torch.addcmul(eps * change, delta, 1 - first)
            else:
                trial = _move_mass(delta, first, windows.either[i], change, eps)
            point = (x0 + trial).clamp_(0, 1)
            logits = model(point)
            reached = losses.margin_loss(logits, goal)
            poison = poison + reached
            better = reached > margin
            margin = torch.where(better, reached, margin)
            delta = torch.where(better.view(-1, 1, 1, 1), point - x0, delta)
            if (query + i) % every == every - 1 and bool((margin > 0).any()):
                keep = margin <= search.slack(logits)
                if not keep.all():
                    _settle(model, best, rows[~keep], (x0 + delta)[~keep], poison[~keep])
                    rows, x0, goal, keys = rows[keep], x0[keep], goal[keep], keys[keep]
                    delta, margin, poison, windows = delta[keep], margin[keep], poison[keep], windows.keep(keep)
                if not len(rows):
                    return
        query = until
    _settle(model, best, rows, x0 + delta, poison)


def _settle(model: nn.Module, best: search.Best, rows: Tensor, point: Tensor, poison: Tensor) -> None:
    """Tell `best` where the search of these examples ended."""
    best.note(rows, poison[:, None])
    best.see(rows, point, model(point))


def window_side(query: int, image: tuple[int, int], p: float, norm: str) -> int:
    """Return the side of the window at a query: its area is the share p of the image, p halved by schedule."""
    share = p / 2 ** sum(query > h for h in HALVINGS)
    side = round(math.sqrt(share * image[0] * image[1]))
    side = max(side, 1) if norm == "linf" else max(side, 3) | 1  # l2: odd, at least 3
    return min(side, *image)


@dataclass
class _Windows:
    """The windows of a block of Q queries for n examples, as full images, so that a query needs no indexing."""

    first: Tensor  # (Q, n, 1, H, W), 1 inside the window, 0 outside
    either: Tensor  # (Q, n, 1, H, W), 1 inside the window or the one that it takes mass from (l2)
    change: Tensor  # (Q, n, C, H, W), what goes into the window: signs (linf) or signed patterns (l2), else 0

    @classmethod
    def place(cls, draws: Tensor, image: tuple[int, int], side: int, norm: str) -> _Windows:
        """Turn uniform draws (n, Q, 5 + C) into windows; all positions inside the image are equally likely."""
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

    def keep(self, mask: Tensor) -> _Windows:
        """Return the windows of the examples where the mask (n,) is True."""
        return _Windows(self.first[:, mask], self.either[:, mask], self.change[:, mask])


def _box(row: Tensor, column: Tensor, side: int) -> Tensor:
    """Return where both offsets (Q, n, H) and (Q, n, W) from the corner are in [0, side), bool (Q, n, 1, H, W)."""
    inside_row, inside_column = ((offset >= 0) & (offset < side) for offset in (row, column))
    return (inside_row[..., :, None] & inside_column[..., None, :])[:, :, None]


def _move_mass(delta: Tensor, first: Tensor, either: Tensor, change: Tensor, eps: float) -> Tensor:
    """Return the l2 perturbations (n, C, H, W) after one query: algorithm 3, on the sphere of radius eps."""
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


def _stripes(x: Tensor, keys: Tensor, eps: float) -> Tensor:
    """Return the linf start (n, C, H, W): vertical stripes of ± eps, a sign per column and channel."""
    _, channels, _, width = x.shape
    sign = randomness.integers(keys, STREAM - 1, 2, (channels, 1, width))
    return (eps * (2 * sign - 1).to(x.dtype)).expand_as(x)


def _tiles(x: Tensor, keys: Tensor, eps: float) -> Tensor:
    """Return the l2 start (n, C, H, W): a grid of patterns a fifth of the image high, a sign per tile and channel."""
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    sign = 2 * randomness.integers(keys, STREAM - 1, 2, (channels, down, across)).to(x.dtype) - 1
    turned = randomness.uniform(keys, STREAM - 2, (1, down, across), x.dtype) < 0.5
    bumps = two_bumps(side).to(x)
    pattern = torch.where(turned[..., None, None], bumps.T, bumps) * sign[..., None, None]
    tiled = pattern.transpose(3, 4).reshape(n, channels, down * side, across * side)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    start = torch.zeros_like(x)
    start[:, :, top : top + down * side, left : left + across * side] = tiled
    return eps * balls.ascent(start, "l2")
