"""Auto-PGD: projected gradient ascent with momentum that halves its own step when it stops gaining."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks import _geometry, _model, randomness

SOURCE: Final = "Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', algorithm 1, eq. (6), (8)"
VERSION: Final = 1
ROWS: Final = 512  # points in one pass when several targets run in lockstep: bounds the memory
STREAMS: Final = {"ce": 1 << 20, "dlr": 2 << 20, "targeted": 3 << 20}  # of random starts, apart from PGD's


def ce_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return logsumexp_{k≠y} z_k − z_y, (B,): cross-entropy's direction and order, without its underflow."""
    return _model.log_odds_loss(logits, y)


def dlr_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), (B,): eq. (6); π sorts the logits downwards, K ≥ 3."""
    top = logits.topk(3, dim=1).values
    return _model.margin_loss(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2), (B,): eq. (8). With K ≤ 3 there is no π4: z_t − z_y then."""
    gap = (logits.gather(1, goal[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


LOSSES: Final = {"ce": ce_loss, "dlr": dlr_loss, "targeted": targeted_loss}


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    loss: str = "ce",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    rho: float = 0.75,
    draws: int = 1,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Run Auto-PGD and return the point with the largest margin loss met.

    Algorithm 1 of the paper: first step 2·eps from a random point of the ball's surface, momentum 0.75; at each
    checkpoint the step is halved, and the search goes back to its best point, if fewer than rho of the steps
    since the last one gained, or if neither step nor best loss moved. An example stops when it is broken.
    What differs from the authors' code: the random start belongs to the example; the first checkpoint compares
    the first step with the start (theirs compares it with zero); all targets but the first run in lockstep.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random starts.
        loss: "ce", "dlr" (K ≥ 3), or "targeted": the targeted DLR loss towards each of the next best classes.
        steps: 100; with rho 0.75 from the paper, section 4.
        restarts: 1, as in AutoAttack's standard version.
        targets: 9; fewer where there are fewer other classes.
        rho: share of steps that must gain.
        draws: passes per gradient, for randomised models; 20 in AutoAttack's "rand".
        trace: is given `margin` (B,), the best margin loss; `zero_gradient` (B,), steps that had no gradient.

    Raises:
        ValueError: unknown norm or loss, or "dlr" with two classes.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    _geometry.check_norm("apgd", norm)
    if loss not in LOSSES:
        raise ValueError(f"apgd: expected a loss among {sorted(LOSSES)}, got {loss!r}. Choose one of them.")
    keys = randomness.example_keys(x, seed)
    zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with _model.quiet(model):
        best = _model.Best("apgd", model, x, y)
        classes = best.logits.shape[1]
        if loss == "dlr" and classes < 3:
            raise ValueError(f"apgd: expected at least 3 classes for the DLR loss, got {classes}. Use loss='ce'.")
        ranks = [[0]] if loss != "targeted" else lockstep(min(targets, classes - 1))
        goals = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for restart in range(restarts):
            for group in ranks:
                for rows in best.parts(ROWS // len(group)):
                    starts = [
                        _geometry.sphere_perturbation(
                            x[rows], keys[rows], STREAMS[loss] + restart * classes + rank, eps, norm
                        )
                        for rank in group
                    ]
                    climb = _Climb.start(x, y, rows, goals[:, group], torch.stack(starts, 1), eps, norm)
                    _run(model, climb, best, zero, loss, steps, eps, norm, rho, draws)
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero)
    return best.result()


def lockstep(targets: int) -> list[list[int]]:
    """Return the groups of targets, by rank, that run at the same time: the nearest class first, then the rest.

    The nearest class breaks most examples, so its run spares the others theirs; the rest share their passes.
    The groups are fixed, so that which target breaks an example does not depend on the batch.
    """
    return [group for group in ([0], list(range(1, targets))) if group]


@dataclass
class _Climb:
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
    def start(cls, x: Tensor, y: Tensor, rows: Tensor, goals: Tensor, delta: Tensor, eps: float, norm: str) -> _Climb:
        n, t = delta.shape[:2]
        x0 = x[rows][:, None].expand(delta.shape).contiguous()
        flat0 = x0.flatten(0, 1)
        point = _geometry.into(flat0, flat0 + delta.flatten(0, 1), eps, norm).view(delta.shape)
        flat = x.new_zeros((n, t))
        return cls(
            rows, x0, y[rows][:, None].expand(n, t).contiguous(), goals[rows], point, point, point, point, point,
            flat - torch.inf, flat - torch.inf, flat, flat + 2 * eps, flat + 1, flat,
        )  # fmt: skip

    def keep(self, mask: Tensor) -> None:
        """Drop the examples where the mask (n,) is False."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[mask])


def _run(
    model: nn.Module, s: _Climb, best: _model.Best, zero: Tensor, loss: str, steps: int,
    eps: float, norm: str, rho: float, draws: int,
) -> None:  # fmt: skip
    """Climb from the starting points in `s`, telling `best` what is met."""
    every = _model.check_interval(s.x0)
    since = 0  # steps since the last checkpoint
    window, least, shorter = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    for i in range(steps + 1):
        shape = s.point.shape
        wide = (*shape[:2], *[1] * (len(shape) - 2))

        if i < steps:
            logits, value, slope = _model.gradient(
                model, s.point.flatten(0, 1), lambda z: LOSSES[loss](z, s.y.flatten(), s.goal.flatten()), draws
            )
            s.slope, value = slope.reshape(shape), value.reshape(shape[:2])
            zero[s.rows] += (slope.flatten(1) == 0).all(1).view(shape[:2]).any(1)
        else:
            logits = _model.predict(model, s.point.flatten(0, 1))
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
        move = _geometry.ascent(s.slope.flatten(0, 1), norm) * _geometry.per_example(s.step.flatten(), point)
        ahead = _geometry.into(x0, point + move, eps, norm)
        if i > 0:
            momentum = 0.25 * (point - s.previous.flatten(0, 1))
            ahead = _geometry.into(x0, point + 0.75 * (ahead - point) + momentum, eps, norm)
        s.previous, s.point = s.point, ahead.view(s.point.shape)


def _tell(best: _model.Best, s: _Climb, logits: Tensor) -> None:
    """Show `best` the worst of each example's targets."""
    n, t = s.y.shape
    if t == 1:
        worst_point, worst_logits = s.point[:, 0], logits
    else:
        worst = _model.margin_loss(logits, s.y.flatten()).view(n, t).argmax(1)
        each = torch.arange(n, device=worst.device)
        worst_point, worst_logits = s.point[each, worst], logits.reshape(n, t, -1)[each, worst]
    best.see(s.rows, worst_point, worst_logits)
    best.note(s.rows, logits.reshape(n, -1))
    best.note(s.rows, s.slope)
