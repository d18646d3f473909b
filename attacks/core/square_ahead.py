"""Square's queries several at a time: asked ahead as if none of them gained, the first that does is taken."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from bench.attacks.core import losses, search
from bench.attacks.core.square_state import SquareState
from bench.attacks.core.square_windows import Windows

AHEAD: Final = 8  # queries of an example in one pass


def several_at_once(model: nn.Module, state: SquareState, windows: Windows, eps: float, norm: str) -> None:
    """Ask the queries of a block `AHEAD` at a time, and end where asking them in turn ends.

    Every example goes on behind the first of its queries that gained, so that each query starts from the perturbation
    that it would start from in turn. One that is broken waits for the others, so that all passes are of one size.

    Args:
        model: images to logits.
        state: changed in place; `done` says which examples are broken.
        windows: of the block.
        eps: radius of the ball.
        norm: "l2" or "linf".
    """
    total, n = len(windows.first), len(state)
    each = torch.arange(n, device=state.rows.device)
    step = torch.arange(AHEAD, device=each.device)
    place, shape = torch.zeros_like(each), (n, AHEAD, *state.x0.shape[1:])
    x0 = state.x0[:, None].expand(shape).flatten(0, 1)
    label = state.label.repeat_interleave(AHEAD)
    state.done = torch.zeros_like(state.margin, dtype=torch.bool)
    while bool((place < total).any()):
        asked = place[:, None] + step
        window = windows.at(asked.clamp_max(total - 1), each[:, None])
        flat = Windows(*(part.flatten(0, 1) for part in (window.first, window.either, window.change)))
        trial = flat.propose(state.delta[:, None].expand(shape).flatten(0, 1), eps, norm)
        x_adv = (x0 + trial).clamp_(0, 1)
        logits = search.predict(model, x_adv)
        reached = losses.margin_loss(logits, label).view(n, AHEAD)
        better = (reached > state.margin[:, None]) & (asked < total)
        hit, first = better.any(1), better.int().argmax(1)
        last = torch.where(hit, first, AHEAD - 1)
        valid = (asked < total) & (step <= last[:, None])
        state.nonfinite_guard = state.nonfinite_guard + torch.where(valid, reached, 0).sum(1)
        state.gained(hit)
        state.margin = torch.where(hit, reached[each, first], state.margin)
        taken = x_adv.view(shape)[each, first] - state.x0
        state.delta = torch.where(hit.view(-1, 1, 1, 1), taken, state.delta)
        slack = search.slack(logits).view(n, AHEAD)[each, first]
        state.done |= hit & (state.margin > slack)
        place = torch.where(state.done, total, place + last + 1)
