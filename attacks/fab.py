"""FAB: walk along the decision boundary towards the clean image, here against one target class at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, losses, search
from bench.attacks.core.lockstep import MAX_POINTS, lockstep
from bench.attacks.core.trace import Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Gt, Interval
from bench.core.torch_state import frozen_eval


@dataclass(frozen=True, slots=True)
class FabParams:
    """What stays the same during a walk; see `fab`."""

    steps: int
    eps: float
    norm: str
    alpha_max: float
    eta: float
    beta: float


@attack(
    source="Croce and Hein 2020, 'Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack'",
    version=2,
)
def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    alpha_max: Annotated[float, Interval(ge=0, le=1)] = 0.1,
    eta: Annotated[float, Gt(0)] = 1.05,
    beta: Annotated[float, Interval(gt=0, lt=1)] = 0.9,
    trace: Trace | None = None,
) -> Tensor:
    """Run targeted FAB and return a misclassified point inside the eps-ball where one is found, (B, C, H, W).

    One step, with h(z) = g + w·(z − x_i) the linear model of z_t − z_y at x_i, d₁ and d₂ the smallest steps inside
    the box that bring x_i and x0 onto h = 0, α = min(‖d₁‖/(‖d₁‖+‖d₂‖), alpha_max):
    x ← clip((1−α)(x_i + eta·d₁) + α(x0 + eta·d₂)); a misclassified point is pulled back, x ← x0 + beta(x − x0).
    Deterministic. An example stops as soon as it is broken inside the ball; the search for the very smallest
    perturbation, which the authors' code goes on with, cannot change the verdict. All targets but the nearest run
    in lockstep.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius within which a point counts, ≥ 0.
        norm: "l2" or "linf".
        seed: not used; every attack has it.
        steps: per target; 100, with alpha_max, eta and beta from the paper, section 4.
        n_target_classes: target classes; 9, fewer where there are fewer other classes.
        alpha_max: largest share of the step that goes towards the clean image.
        eta: overshoot beyond the hyperplane.
        beta: share of the distance that a misclassified point keeps.
        trace: receives `margin` (B,), the best margin loss inside the ball; `nearest` (B,), the smallest norm of
            a misclassified point met, infinity if none.

    Returns:
        Misclassified points inside the ball where found, else the points with the largest margin loss, (B, C, H, W).

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("fab", norm)
    params = FabParams(steps, eps, norm, alpha_max, eta, beta)
    best_norm = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    with frozen_eval(model):
        model = folding.fold_constants(model, x, steps)
        best = search.Best("fab", model, x, y)
        best_norm[best.margin > 0] = 0
        targets = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for group in lockstep(min(n_target_classes, best.logits.shape[1] - 1)):
            for rows in best.batches(MAX_POINTS // len(group)):
                _walk(model, x, rows, targets[:, group], best, best_norm, params)
    if trace is not None:
        trace.update(margin=best.margin, nearest=best_norm)
    return best.finalize()


def _walk(
    model: nn.Module, x: Tensor, rows: Tensor, targets: Tensor, best: search.Best, best_norm: Tensor, p: FabParams
) -> None:
    """Walk from x towards each target (B, T), the T walks of an example side by side, updating best and best_norm."""
    check_every, t = search.check_interval(x), targets.shape[1]
    spread = rows.repeat_interleave(t)  # one row per example and target
    x0, x_adv, label, target = x[spread], x[spread], best.y[spread], targets[rows].flatten()
    for i in range(p.steps):
        logits, diff, grad = search.gradient(model, x_adv, partial(logit_diff, label=label, target=target))
        best.flag_nonfinite(rows, grad.reshape(len(rows), -1))
        w = grad.flatten(1)
        offset = (w * x_adv.flatten(1)).sum(1) - diff
        both = torch.cat([x_adv, x0]).flatten(1)
        step = to_hyperplane(both, torch.cat([w, w]), torch.cat([offset, offset]), p.norm)
        size = balls.size(step, p.norm).clamp_min(1e-8)
        alpha = (size[: len(w)] / (size[: len(w)] + size[len(w) :])).clamp_max(p.alpha_max)
        first, second = (part.reshape(x_adv.shape) for part in (both + p.eta * step).chunk(2))
        x_adv = torch.lerp(first, second, balls.per_example(alpha, x_adv)).clamp_(0, 1)

        logits = search.predict(model, x_adv)
        margin = losses.margin_loss(logits, label)
        distance = balls.size(x_adv - x0, p.norm)
        wrong = margin > 0
        norm_found = torch.where(wrong, distance, torch.inf)
        best_norm[rows] = torch.minimum(best_norm[rows], norm_found.view(len(rows), -1).amin(1))
        _update_best(best, rows, x_adv, logits, torch.where(norm_found <= p.eps, margin, -torch.inf))
        x_adv = torch.where(balls.per_example(wrong, x_adv), torch.lerp(x0, x_adv, p.beta), x_adv)

        if i % check_every == check_every - 1:
            kept = search.kept_rows(~best.stopped[rows])
            if kept is not None:
                wide = (kept[:, None] * t + torch.arange(t, device=kept.device)).flatten()
                rows, x0, x_adv, label, target = rows[kept], x0[wide], x_adv[wide], label[wide], target[wide]
            if not len(rows):
                break


def logit_diff(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """Return z_t − z_y of logits (B, K) at labels (B,) and target classes (B,), shape (B,)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, label[:, None]))[:, 0]


def _update_best(best: search.Best, rows: Tensor, x_adv: Tensor, logits: Tensor, inside: Tensor) -> None:
    """Update `best` with the worst point of each example's targets; `inside` is its margin, -inf out of the ball."""
    n = len(rows)
    inside = inside.view(n, -1)
    worst, each = inside.argmax(1), torch.arange(n, device=rows.device)
    chosen = each * inside.shape[1] + worst
    best.update(rows, x_adv[chosen], logits[chosen], inside[each, worst] > -torch.inf)


def to_hyperplane(points: Tensor, w: Tensor, offset: Tensor, norm: str) -> Tensor:
    """Return the smallest steps (B, d) that bring points (B, d) in the box [0, 1] onto w·z = offset inside the box.

    The step is clip(t − λ·v) − t with v = w (l2) or sign(w) (linf) and the λ that solves w·clip(t − λ·v) = offset:
    its left side falls piecewise linearly in λ, with a kink where a coordinate reaches the box, so sorting the
    kinks gives λ exactly. Where the hyperplane misses the box, every coordinate goes to its bound.

    Args:
        points: t, (B, d).
        w: normals of the hyperplanes, (B, d).
        offset: their offsets, (B,).
        norm: "l2" or "linf", in which the step is smallest.
    """
    largest = w.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1)  # so that squares of tiny gradients do not vanish
    w, offset = w / scale, offset[:, None] / scale
    diff = (w * points).sum(1, keepdim=True) - offset
    w = torch.where(diff >= 0, w, -w)
    diff = diff.abs()
    v = w if norm == "l2" else w.sign()
    weight = w * v  # rate at which the left side falls, per coordinate, until the coordinate reaches its bound
    bound = (w < 0).to(w.dtype)
    kink = torch.where(v != 0, (points - bound) / torch.where(v != 0, v, 1), 0).clamp_min(0)

    kink_sorted, order = kink.sort(1)
    weight_sorted = weight.gather(1, order)
    fall_bounded = nn.functional.pad((weight_sorted * kink_sorted).cumsum(1), (1, 0))  # fall of those at their bound
    left = weight.sum(1, keepdim=True) - nn.functional.pad(weight_sorted.cumsum(1), (1, 0))
    fall = fall_bounded[:, 1:] + kink_sorted * left[:, 1:]  # of the left side, with λ at each kink
    k = torch.searchsorted(fall.contiguous(), diff).clamp_max(points.shape[1] - 1)
    lam = (diff - fall_bounded.gather(1, k)) / left.gather(1, k).clamp_min(torch.finfo(w.dtype).tiny)
    reached = (points - lam * v).clamp(0, 1)
    end = torch.where(v != 0, bound, points)
    return torch.where(diff <= fall_bounded[:, -1:], reached, end) - points
