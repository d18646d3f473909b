"""FAB: walk along the decision boundary towards the clean image, here against one target class at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, frozen, losses, search
from bench.attacks.core.lockstep import MAX_POINTS, lockstep
from bench.core.decorators import attack


@attack(source="Croce and Hein 2020, 'Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack'")
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    steps: int = 100,
    targets: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Run targeted FAB and return a misclassified point inside the eps-ball where one is found.

    One step, with h(z) = g + w·(z − x_i) the linear model of z_t − z_y at x_i, d₁ and d₂ the smallest moves inside
    the box that bring x_i and x0 onto h = 0, α = min(‖d₁‖/(‖d₁‖+‖d₂‖), alpha_max):
    x ← clip((1−α)(x_i + eta·d₁) + α(x0 + eta·d₂)); a misclassified point is pulled back, x ← x0 + beta(x − x0).
    Deterministic: `seed` is there because every attack has it. An example stops as soon as it is broken inside
    the ball; the search for the very smallest perturbation, which the authors' code goes on with, cannot change
    the verdict. All targets but the nearest run in lockstep.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius within which a point counts.
        norm: "l2" or "linf".
        steps: 100; with alpha_max, eta and beta from the paper, section 4.
        targets: 9; fewer where there are fewer other classes.
        trace: is given `margin` (B,), the best margin loss inside the ball; `nearest` (B,), the smallest norm of
            a misclassified point met, infinity if none.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("fab", norm)
    near = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    with frozen.frozen_eval(model):
        model = folding.fold_constants(model, x, steps)
        best = search.Best("fab", model, x, y)
        near[best.margin > 0] = 0
        goals = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for group in lockstep(min(targets, best.logits.shape[1] - 1)):
            for rows in best.parts(MAX_POINTS // len(group)):
                _walk(model, x, y, rows, goals[:, group], best, near, steps, eps, norm, alpha_max, eta, beta)
    if trace is not None:
        trace.update(margin=best.margin, nearest=near)
    return best.result()


def _walk(
    model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, goals: Tensor, best: search.Best, near: Tensor,
    steps: int, eps: float, norm: str, alpha_max: float, eta: float, beta: float,
) -> None:  # fmt: skip
    """Walk from x towards each goal (B, T), the T walks of an example side by side, telling `best` what is met."""
    every, targets = search.check_interval(x), goals.shape[1]
    spread = rows.repeat_interleave(targets)  # one row per example and target
    x0, point, truth, goal = x[spread], x[spread], y[spread], goals[rows].flatten()
    for step in range(steps):
        logits, gap, slope = search.gradient(model, point, partial(_gap, y=truth, goal=goal))
        best.note(rows, slope.reshape(len(rows), -1))
        w = slope.flatten(1)
        offset = (w * point.flatten(1)).sum(1) - gap
        twice = torch.cat([point, x0]).flatten(1)
        move = to_hyperplane(twice, torch.cat([w, w]), torch.cat([offset, offset]), norm)
        size = balls.size(move, norm).clamp_min(1e-8)
        alpha = (size[: len(w)] / (size[: len(w)] + size[len(w) :])).clamp_max(alpha_max)
        first, second = (part.reshape(point.shape) for part in (twice + eta * move).chunk(2))
        point = torch.lerp(first, second, balls.per_example(alpha, point)).clamp_(0, 1)

        logits = search.predict(model, point)
        margin = losses.margin_loss(logits, truth)
        distance = balls.size(point - x0, norm)
        wrong = margin > 0
        _tell(best, near, rows, point, logits, torch.where(wrong, distance, torch.inf), margin, eps)
        point = torch.where(balls.per_example(wrong, point), torch.lerp(x0, point, beta), point)

        if step % every == every - 1:
            keep = ~best.stopped[rows]
            if not keep.all():
                wide = keep.repeat_interleave(targets)
                rows, x0, point, truth, goal = rows[keep], x0[wide], point[wide], truth[wide], goal[wide]
            if not len(rows):
                break


def _gap(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return z_t − z_y, (B,)."""
    return (logits.gather(1, goal[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def _tell(
    best: search.Best, near: Tensor, rows: Tensor, point: Tensor, logits: Tensor, distance: Tensor, margin: Tensor,
    eps: float,
) -> None:  # fmt: skip
    """Show `best` the worst point inside the ball of each example's targets, and `near` the smallest distance."""
    n = len(rows)
    near[rows] = torch.minimum(near[rows], distance.view(n, -1).amin(1))
    inside = torch.where(distance <= eps, margin, -torch.inf).view(n, -1)
    worst, each = inside.argmax(1), torch.arange(n, device=rows.device)
    chosen = each * inside.shape[1] + worst
    best.see(rows, point[chosen], logits[chosen], inside[each, worst] > -torch.inf)


def to_hyperplane(points: Tensor, w: Tensor, offset: Tensor, norm: str) -> Tensor:
    """Return the smallest moves (B, d) that bring points (B, d) in the box [0, 1] onto w·z = offset inside the box.

    The move is clip(t − λ·v) − t with v = w (l2) or sign(w) (linf) and the λ that solves w·clip(t − λ·v) = offset:
    its left side falls piecewise linearly in λ, with a kink where a coordinate reaches the box, so sorting the
    kinks gives λ exactly. Where the hyperplane misses the box, every coordinate goes to its bound.
    """
    largest = w.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1)  # so that squares of tiny gradients do not vanish
    w, offset = w / scale, offset[:, None] / scale
    gap = (w * points).sum(1, keepdim=True) - offset
    w = torch.where(gap >= 0, w, -w)
    gap = gap.abs()
    v = w if norm == "l2" else w.sign()
    weight = w * v  # rate at which the left side falls, per coordinate, until the coordinate reaches its bound
    bound = (w < 0).to(w.dtype)
    kink = torch.where(v != 0, (points - bound) / torch.where(v != 0, v, 1), 0).clamp_min(0)

    kink_sorted, order = kink.sort(1)
    weight_sorted = weight.gather(1, order)
    spent = nn.functional.pad((weight_sorted * kink_sorted).cumsum(1), (1, 0))  # fall of those at their bound
    left = weight.sum(1, keepdim=True) - nn.functional.pad(weight_sorted.cumsum(1), (1, 0))
    fall = spent[:, 1:] + kink_sorted * left[:, 1:]  # of the left side, with λ at each kink
    k = torch.searchsorted(fall.contiguous(), gap).clamp_max(points.shape[1] - 1)
    lam = (gap - spent.gather(1, k)) / left.gather(1, k).clamp_min(torch.finfo(w.dtype).tiny)
    near = (points - lam * v).clamp(0, 1)
    end = torch.where(v != 0, bound, points)
    return torch.where(gap <= spent[:, -1:], near, end) - points
