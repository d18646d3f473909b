"""The search of Auto-PGD: gradient ascent with momentum, halving its step when it stops improving."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, losses, search
from bench.attacks.core.losses import Loss


@dataclass
class ApgdState:
    """State of the search, one row per example and target: n examples with T targets each, side by side.

    Attributes:
        rows: the examples' places in the batch, (n,); everything below is (n, T, …).
        x0: the clean images.
        y: labels.
        target: target classes.
        x_adv: the current points.
        x_adv_old: the points before.
        grad: gradient of the loss at `x_adv`.
        x_best: where the loss was largest so far.
        grad_best: its gradient there.
        loss_best: its value there.
        loss: the loss at the point evaluated last.
        loss_best_last_check: `loss_best` at the last checkpoint.
        step_size: step size.
        reduced_last_check: 1 where the step was halved at the last checkpoint.
        n_improved: steps since the last checkpoint that raised the loss.
    """

    rows: Tensor
    x0: Tensor
    y: Tensor
    target: Tensor
    x_adv: Tensor
    x_adv_old: Tensor
    grad: Tensor
    x_best: Tensor
    grad_best: Tensor
    loss_best: Tensor
    loss: Tensor
    loss_best_last_check: Tensor
    step_size: Tensor
    reduced_last_check: Tensor
    n_improved: Tensor

    @classmethod
    def start(
        cls, x: Tensor, y: Tensor, rows: Tensor, target: Tensor, *, delta: Tensor, eps: float, norm: str
    ) -> ApgdState:
        """Return the state at the starting points.

        Args:
            x: clean images of the whole batch, (B, C, H, W).
            y: labels (B,).
            rows: places of the n examples that are attacked.
            target: target classes of the whole batch, (B, T).
            delta: starting perturbations (n, T, C, H, W); projected.
            eps: radius of the ball.
            norm: "l2" or "linf".
        """
        n, t = delta.shape[:2]
        x0 = x[rows][:, None].expand(delta.shape).contiguous()
        flat0 = x0.flatten(0, 1)
        x_adv = balls.into(flat0, flat0 + delta.flatten(0, 1), eps, norm).view(delta.shape)
        flat = x.new_zeros((n, t))
        return cls(
            rows=rows,
            x0=x0,
            y=y[rows][:, None].expand(n, t).contiguous(),
            target=target[rows],
            x_adv=x_adv,
            x_adv_old=x_adv,
            grad=x_adv,
            x_best=x_adv,
            grad_best=x_adv,
            loss_best=flat - torch.inf,
            loss=flat - torch.inf,
            loss_best_last_check=flat,
            step_size=flat + 2 * eps,
            reduced_last_check=flat + 1,
            n_improved=flat,
        )

    def keep(self, places: Tensor) -> None:
        """Drop all examples but those at some places (k,) among the n."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[places])


def apgd_loop(
    model: nn.Module,
    s: ApgdState,
    best: search.Best,
    *,
    loss: Loss,
    steps: int,
    eps: float,
    norm: str,
    zero_gradient: Tensor,
    rho: float = 0.75,
    eot_iter: int = 1,
    attacked: nn.Module | None = None,
) -> None:
    """Climb from the starting points in `s` and update `best` at each point met; algorithm 1 of the paper.

    Args:
        model: whose gradients lead.
        s: the state, changed in place.
        best: the worst points, changed in place.
        loss: `loss(logits, y, target)`, one value per row.
        steps: gradient steps.
        eps: radius of the ball.
        norm: "l2" or "linf".
        zero_gradient: (B,), counts the steps that had no gradient; changed in place.
        rho: share of steps that must improve the loss, or the step is halved.
        eot_iter: passes per gradient.
        attacked: the model that is attacked, if it is not the one whose gradients lead.
    """
    check_every = search.check_interval(s.x0)
    since = 0  # steps since the last checkpoint
    window, least, shorter = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    for i in range(steps + 1):
        shape = s.x_adv.shape
        wide = (*shape[:2], *[1] * (len(shape) - 2))

        if i < steps:
            logits, value, grad = search.gradient(
                model, s.x_adv.flatten(0, 1), lambda z: loss(z, s.y.flatten(), s.target.flatten()), eot_iter
            )
            s.grad, value = grad.reshape(shape), value.reshape(shape[:2])
            zero_gradient[s.rows] += (grad.flatten(1) == 0).all(1).view(shape[:2]).any(1)
        if i == steps or attacked is not None:
            logits = search.predict(attacked or model, s.x_adv.flatten(0, 1))
        _update_best(best, s, logits)
        if i == steps:
            break

        # Bookkeeping of the point just evaluated: improvements, best point, and at a checkpoint the step size.
        s.n_improved = s.n_improved + (value > s.loss) * (i > 0)
        s.loss = value
        higher = value > s.loss_best
        s.loss_best = torch.where(higher, value, s.loss_best)
        s.x_best = torch.where(higher.view(wide), s.x_adv, s.x_best)
        s.grad_best = torch.where(higher.view(wide), s.grad, s.grad_best)
        if i == 0:
            s.loss_best_last_check = s.loss_best
        elif (since := since + 1) == window:
            stuck = (s.reduced_last_check == 0) & (s.loss_best_last_check >= s.loss_best)
            halve = (s.n_improved <= rho * window) | stuck
            s.step_size = torch.where(halve, s.step_size / 2, s.step_size)
            s.x_adv = torch.where(halve.view(wide), s.x_best, s.x_adv)
            s.grad = torch.where(halve.view(wide), s.grad_best, s.grad)
            s.reduced_last_check, s.loss_best_last_check = halve.to(s.n_improved.dtype), s.loss_best
            s.n_improved = torch.zeros_like(s.n_improved)
            window, since = max(window - shorter, least), 0

        if i % check_every == check_every - 1:
            if (kept := search.kept_rows(~best.stopped[s.rows])) is not None:
                s.keep(kept)
            if not len(s.rows):
                break

        # One step with momentum; projection before and after, as in the paper.
        x0, x_adv = s.x0.flatten(0, 1), s.x_adv.flatten(0, 1)
        step = balls.ascent(s.grad.flatten(0, 1), norm) * balls.per_example(s.step_size.flatten(), x_adv)
        x_next = balls.into(x0, x_adv + step, eps, norm)
        if i > 0:
            momentum = 0.25 * (x_adv - s.x_adv_old.flatten(0, 1))
            x_next = balls.into(x0, x_adv + 0.75 * (x_next - x_adv) + momentum, eps, norm)
        s.x_adv_old, s.x_adv = s.x_adv, x_next.view(s.x_adv.shape)


def _update_best(best: search.Best, s: ApgdState, logits: Tensor) -> None:
    """Update `best` with the worst of each example's targets."""
    n, t = s.y.shape
    if t == 1:
        worst_point, worst_logits = s.x_adv[:, 0], logits
    else:
        worst = losses.margin_loss(logits, s.y.flatten()).view(n, t).argmax(1)
        each = torch.arange(n, device=worst.device)
        worst_point, worst_logits = s.x_adv[each, worst], logits.reshape(n, t, -1)[each, worst]
    best.update(s.rows, worst_point, worst_logits)
    best.flag_nonfinite(s.rows, logits.reshape(n, -1))
    best.flag_nonfinite(s.rows, s.grad)
