"""Square: random search with localised square changes; asks only for logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, losses, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.square_windows import HALVINGS, Windows, move_mass, stripes, tiles, window_side
from bench.attacks.core.trace import Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Interval
from bench.core.torch_state import frozen_eval

PAGE: Final = 100  # queries whose random numbers are drawn at once
BLOCK: Final = 1 << 21  # numbers per block of windows: bounds the memory
GPU_BLOCK: Final = 1 << 24  # on a GPU, where the launches for a block cost more than its numbers


@dataclass(frozen=True, slots=True)
class SquareParams:
    """What stays the same during a search; see `square`."""

    eps: float
    norm: str
    n_queries: int
    p: float


@attack(source="Andriushchenko et al. 2020, 'Square Attack', algorithms 1-3", gradients=False)
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    n_queries: Annotated[int, Ge(1)] = 5000,
    p: Annotated[float, Interval(ge=0, le=1)] = 0.8,
    trace: Trace | None = None,
) -> Tensor:
    """Run the Square attack on the margin loss and return the worst point met, (B, C, H, W).

    Each query changes one square window, and is kept if the margin falls. linf: the window is set to x ± eps,
    one sign per channel. l2: the mass of two windows and the unused budget go into the first one, as a pattern
    with a positive and a negative half. What differs from the authors' code: every example has windows of its
    own, so that the result does not depend on the batch; windows may touch the last row and column; images
    under 5 pixels work; an example stops when it is broken.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the windows and signs.
        n_queries: 5,000, as in AutoAttack.
        p: share of the pixels that the first windows cover; 0.8 in AutoAttack. It is halved at fixed queries.
        trace: receives `margin` (B,), the best margin loss.

    Returns:
        The points with the largest margin loss met, (B, C, H, W).

    Raises:
        ValueError: unknown norm, or x is not (B, C, H, W).
        FloatingPointError: NaN or infinity in logits.
    """
    balls.check_norm("square", norm)
    if x.ndim != 4:
        raise ValueError(f"square: expected images (B, C, H, W), got shape {tuple(x.shape)}. Reshape them.")
    keys = randomness.example_keys(x, seed)
    with frozen_eval(model), torch.no_grad():
        model = folding.fold_constants(model, x, n_queries)
        best = search.Best("square", model, x, y)
        rows = best.active()
        if len(rows):
            _search(model, x, rows, keys, best, SquareParams(balls.inner(x, eps, norm), norm, n_queries, p))
    if trace is not None:
        trace["margin"] = best.margin
    return best.finalize()


def _search(model: nn.Module, x: Tensor, rows: Tensor, keys: Tensor, best: search.Best, s: SquareParams) -> None:
    """Search from the starting pattern; `delta` (n, C, H, W) is the accepted perturbation of the active examples."""
    sync_every, (channels, height, width) = search.check_interval(x), x.shape[1:]
    x0, label, keys, eps = x[rows], best.y[rows], keys[rows], s.eps
    start = (stripes if s.norm == "linf" else tiles)(x0, keys, eps)
    delta = balls.into(x0, x0 + start, eps, s.norm) - x0
    margin = best.update(rows, x0 + delta, search.predict(model, x0 + delta))
    nonfinite_guard = torch.zeros_like(margin)  # NaN or infinite once a margin was: a sum instead of a check a query
    query, block = 0, BLOCK if x.device.type == "cpu" else GPU_BLOCK
    while query < s.n_queries and len(rows):
        draw_page = query // PAGE
        if query % PAGE == 0:
            page = randomness.uniform(keys, Stream.SQUARE_WINDOWS + draw_page, (PAGE, 5 + channels), x.dtype)
        draws = page[:, query - draw_page * PAGE :]
        block_size = max(1, block // (len(rows) * height * width))
        halvings = (h + 1 for h in HALVINGS if h >= query)
        stop = min(s.n_queries, query + block_size, (draw_page + 1) * PAGE, *halvings)
        side = window_side(query, (height, width), s.p, s.norm)
        windows = Windows.place(draws[:, : stop - query], (height, width), side, s.norm)
        for i in range(stop - query):
            first, change = windows.first[i], windows.change[i]
            if s.norm == "linf":
                trial = torch.addcmul(eps * change, delta, 1 - first)
            else:
                trial = move_mass(delta, first, windows.either[i], change, eps)
            x_adv = (x0 + trial).clamp_(0, 1)
            logits = search.predict(model, x_adv)
            reached = losses.margin_loss(logits, label)
            nonfinite_guard = nonfinite_guard + reached
            better = reached > margin
            margin = torch.where(better, reached, margin)
            delta = torch.where(better.view(-1, 1, 1, 1), x_adv - x0, delta)
            if (query + i) % sync_every == sync_every - 1 and bool((margin > 0).any()):
                keep = margin <= search.slack(logits)
                kept = search.kept_rows(keep)
                if kept is not None:
                    done = (~keep).nonzero()[:, 0]
                    _update_best(model, best, rows[done], (x0 + delta)[done], nonfinite_guard[done])
                    rows, x0, label, keys, page = rows[kept], x0[kept], label[kept], keys[kept], page[kept]
                    delta, margin, nonfinite_guard = delta[kept], margin[kept], nonfinite_guard[kept]
                    windows = windows.keep(kept)
                if not len(rows):
                    return
        query = stop
    _update_best(model, best, rows, x0 + delta, nonfinite_guard)


def _update_best(model: nn.Module, best: search.Best, rows: Tensor, x_adv: Tensor, nonfinite_guard: Tensor) -> None:
    """Update `best` with the points at which the search of these examples ended."""
    best.flag_nonfinite(rows, nonfinite_guard[:, None])
    best.update(rows, x_adv, search.predict(model, x_adv))
