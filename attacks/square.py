"""Square: random search with localised square changes; asks only for logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, losses, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.square_ahead import several_at_once
from bench.attacks.core.square_pace import Pace, operations
from bench.attacks.core.square_state import SquareState
from bench.attacks.core.square_windows import HALVINGS, Windows, stripes, tiles, window_side
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


@attack(source="Andriushchenko et al. 2020, 'Square Attack', algorithms 1-3", gradients=False, version=2)
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
    """Search from the starting pattern, block by block of queries whose windows are of one side."""
    sync_every, (channels, height, width) = search.check_interval(x), x.shape[1:]
    x0 = x[rows]
    start = (stripes if s.norm == "linf" else tiles)(x0, keys[rows], s.eps)
    delta = balls.into(x0, x0 + start, s.eps, s.norm) - x0
    with operations(model) as counted:
        margin = best.update(rows, x0 + delta, search.predict(model, x0 + delta))
    state = SquareState(rows, x0, best.y[rows], keys[rows], delta, margin, torch.zeros_like(margin))
    query, block = 0, BLOCK if x.device.type == "cpu" else GPU_BLOCK
    pace = Pace(model, sum(counted) / len(rows))
    while query < s.n_queries and len(state):
        draw_page = query // PAGE
        if query % PAGE == 0:
            shape = (PAGE, 5 + channels)
            state.page = randomness.uniform(state.keys, Stream.SQUARE_WINDOWS + draw_page, shape, x.dtype)
        draws = state.page[:, query - draw_page * PAGE :]
        block_size = max(1, block // (len(state) * height * width))
        halvings = (h + 1 for h in HALVINGS if h >= query)
        stop = min(s.n_queries, query + block_size, (draw_page + 1) * PAGE, *halvings)
        side = window_side(query, (height, width), s.p, s.norm)
        windows = Windows.place(draws[:, : stop - query], (height, width), side, s.norm)
        asked = len(state) * (stop - query)
        if pace.ahead(state, stop - query):
            several_at_once(model, state, windows, s.eps, s.norm)
            _drop(model, best, state, state.done)
        else:
            _one_by_one(model, best, state, windows, query, sync_every, s)
        pace.note(state, asked)
        query = stop
    _update_best(model, best, state.rows, state.x0 + state.delta, state.nonfinite_guard)


def _one_by_one(
    model: nn.Module, best: search.Best, state: SquareState, windows: Windows, query: int, every: int, s: SquareParams
) -> None:
    """Ask the queries of a block in turn; `query` is the number of the first, every so many broken ones are dropped."""
    for i in range(len(windows.first)):
        trial = windows.at(i).propose(state.delta, s.eps, s.norm)
        x_adv = (state.x0 + trial).clamp_(0, 1)
        logits = search.predict(model, x_adv)
        reached = losses.margin_loss(logits, state.label)
        state.nonfinite_guard = state.nonfinite_guard + reached
        better = reached > state.margin
        state.gained(better)
        state.margin = torch.where(better, reached, state.margin)
        state.delta = torch.where(better.view(-1, 1, 1, 1), x_adv - state.x0, state.delta)
        if (query + i) % every == every - 1 and bool((state.margin > 0).any()):
            kept = _drop(model, best, state, state.margin > search.slack(logits))
            windows = windows if kept is None else windows.keep(kept)
            if not len(state):
                return


def _drop(model: nn.Module, best: search.Best, state: SquareState, done: Tensor) -> Tensor | None:
    """Update `best` with the examples that are done, bool (n,), and keep the others; return their places if fewer."""
    kept = search.kept_rows(~done)
    if kept is not None:
        gone = done.nonzero()[:, 0]
        _update_best(model, best, state.rows[gone], (state.x0 + state.delta)[gone], state.nonfinite_guard[gone])
        state.keep(kept)
    return kept


def _update_best(model: nn.Module, best: search.Best, rows: Tensor, x_adv: Tensor, nonfinite_guard: Tensor) -> None:
    """Update `best` with the points at which the search of these examples ended."""
    best.flag_nonfinite(rows, nonfinite_guard[:, None])
    best.update(rows, x_adv, search.predict(model, x_adv))
