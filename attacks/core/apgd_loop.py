"""The search of Auto-PGD: gradient ascent with momentum, halving its step when it stops gaining."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, losses, search
from bench.attacks.core.losses import Loss


@dataclass
class ApgdState:
    """State of the search, one row per example and target: n examples with T targets each, side by side."""

    rows: Tensor  # (n,) the examples' places in the batch
    x0: Tensor  # everything below is (n, T, …)
    y: Tensor
    goal: Tensor
    point: Tensor
    previous: Tensor
    slope: Tensor
    top_point: Tensor  # where the loss was largest so far
    top_slope: Tensor
    top_loss: Tensor
    loss: Tensor
    top_loss_then: Tensor  # at the last checkpoint
    step: Tensor
    halved: Tensor
    gains: Tensor

    @classmethod
    def start(
        cls, x: Tensor, y: Tensor, rows: Tensor, goals: Tensor, delta: Tensor, eps: float, norm: str
    ) -> ApgdState:
        n, t = delta.shape[:2]
        x0 = x[rows][:, None].expand(delta.shape).contiguous()
        flat0 = x0.flatten(0, 1)
        point = balls.into(flat0, flat0 + delta.flatten(0, 1), eps, norm).view(delta.shape)
        flat = x.new_zeros((n, t))
        return cls(
            rows, x0, y[rows][:, None].expand(n, t).contiguous(), goals[rows], point, point, point, point, point,
            flat - torch.inf, flat - torch.inf, flat, flat + 2 * eps, flat + 1, flat,
        )  # fmt: skip

    def keep(self, mask: Tensor) -> None:
        """Drop the examples where the mask (n,) is False."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[mask])


def apgd_loop(
    model: nn.Module, s: ApgdState, best: search.Best, zero: Tensor, loss: Loss, steps: int,
    eps: float, norm: str, rho: float, draws: int, truth: nn.Module | None = None,
) -> None:  # fmt: skip
    """Climb from the starting points in `s`, telling `best` what is met; algorithm 1 of the paper.

    Args:
        model: whose gradients lead.
        zero: (B,), counts the steps that had no gradient.
        loss: `loss(logits, y, goal)`, one value per row.
        truth: the model that is attacked, if it is not the one whose gradients lead.
    """
    every = search.check_interval(s.x0)
    since = 0  # steps since the last checkpoint
    window, least, shorter = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    for i in range(steps + 1):
        shape = s.point.shape
        wide = (*shape[:2], *[1] * (len(shape) - 2))

        if i < steps:
            logits, value, slope = search.gradient(
                model, s.point.flatten(0, 1), lambda z: loss(z, s.y.flatten(), s.goal.flatten()), draws
            )
            s.slope, value = slope.reshape(shape), value.reshape(shape[:2])
            zero[s.rows] += (slope.flatten(1) == 0).all(1).view(shape[:2]).any(1)
        if i == steps or truth is not None:
            logits = search.predict(truth or model, s.point.flatten(0, 1))
        _tell(best, s, logits)
        if i == steps:
            break

        # Bookkeeping of the point just evaluated: gains, best point, and at a checkpoint the step size.
        s.gains = s.gains + (value > s.loss) * (i > 0)
        s.loss = value
        higher = value > s.top_loss
        s.top_loss = torch.where(higher, value, s.top_loss)
        s.top_point = torch.where(higher.view(wide), s.point, s.top_point)
        s.top_slope = torch.where(higher.view(wide), s.slope, s.top_slope)
        if i == 0:
            s.top_loss_then = s.top_loss
        elif (since := since + 1) == window:
            stuck = (s.halved == 0) & (s.top_loss_then >= s.top_loss)
            halve = (s.gains <= rho * window) | stuck
            s.step = torch.where(halve, s.step / 2, s.step)
            s.point = torch.where(halve.view(wide), s.top_point, s.point)
            s.slope = torch.where(halve.view(wide), s.top_slope, s.slope)
            s.halved, s.top_loss_then, s.gains = halve.to(s.gains.dtype), s.top_loss, torch.zeros_like(s.gains)
            window, since = max(window - shorter, least), 0

        if i % every == every - 1:
            keep = ~best.stopped[s.rows]
            if not keep.all():
                s.keep(keep)
            if not len(s.rows):
                break
            wide = (*s.point.shape[:2], *wide[2:])

        # One step with momentum; projection before and after, as in the paper.
        x0, point = s.x0.flatten(0, 1), s.point.flatten(0, 1)
        move = balls.ascent(s.slope.flatten(0, 1), norm) * balls.per_example(s.step.flatten(), point)
        ahead = balls.into(x0, point + move, eps, norm)
        if i > 0:
            momentum = 0.25 * (point - s.previous.flatten(0, 1))
            ahead = balls.into(x0, point + 0.75 * (ahead - point) + momentum, eps, norm)
        s.previous, s.point = s.point, ahead.view(s.point.shape)


def _tell(best: search.Best, s: ApgdState, logits: Tensor) -> None:
    """Show `best` the worst of each example's targets."""
    n, t = s.y.shape
    if t == 1:
        worst_point, worst_logits = s.point[:, 0], logits
    else:
        worst = losses.margin_loss(logits, s.y.flatten()).view(n, t).argmax(1)
        each = torch.arange(n, device=worst.device)
        worst_point, worst_logits = s.point[each, worst], logits.reshape(n, t, -1)[each, worst]
    best.see(s.rows, worst_point, worst_logits)
    best.note(s.rows, logits.reshape(n, -1))
    best.note(s.rows, s.slope)
