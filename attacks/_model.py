"""What an attack asks of a model: logits, margins, losses and gradients with respect to the input only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]

# A point counts as decided (and costs no further pass) once it is misclassified by more than rounding can
# take back: a margin of 1e-5 of the largest logit, about a hundred float32 roundings.
SLACK: Final = 1e-5


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without parameter gradients; restore every flag on the way out."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def rivals(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logits (B, K) with the true class set to -inf."""
    return logits.scatter(1, y[:, None], -torch.inf)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{k≠y} z_k − z_y, shape (B,): positive exactly where the example is misclassified."""
    return rivals(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def log_odds_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return u = logsumexp_{k≠y} z_k − z_y, shape (B,): cross-entropy is softplus(u).

    Cross-entropy rises with u, so the order of points and the direction of the gradient are the same,
    ∇CE = σ(u) ∇u; but ∇u does not vanish where p_y rounds to 1, which defeats saturated logits.
    """
    return rivals(logits, y).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def decided(logits: Tensor, y: Tensor) -> Tensor:
    """Return where the example is misclassified beyond doubt, bool (B,)."""
    return margin_loss(logits, y) > SLACK * logits.abs().amax(1)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits (B, K) without a graph."""
    return model(x)


def gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss, draws: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), loss (B,) and the loss's gradient with respect to x, both detached.

    With draws > 1 all three are means over as many passes of a randomised model (EOT, Athalye et al. 2018).
    A model that passes no gradient yields zeros, which the attack counts; it is no error here.
    """
    total: list[Tensor] = []
    for _ in range(draws):
        point = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            value = loss(logits, y)
            slope = None
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
        pass_ = [logits.detach(), value.detach(), torch.zeros_like(x) if slope is None else slope.detach()]
        total = [a + b for a, b in zip(total, pass_, strict=True)] if total else pass_
    logits, value, slope = (t / draws for t in total) if draws > 1 else total
    return logits, value, slope


def refuse_non_finite(where: str, bad: Tensor) -> None:
    """Raise if any example met a non-finite logit or gradient; `bad` is bool (B,).

    Raises:
        FloatingPointError: names the examples; such a model must never be scored as robust.
    """
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        raise FloatingPointError(
            f"{where}: expected finite logits and gradients, got NaN or infinity at example(s) {rows[:5]} "
            f"({len(rows)} of {len(bad)} in this batch). Mend the model's forward; it cannot be judged so."
        )


def non_finite(logits: Tensor, slope: Tensor | None = None) -> Tensor:
    """Return where logits (B, K) or gradient (B, …) hold NaN or infinity, bool (B,), without a host sync."""
    bad = ~logits.isfinite().all(1)
    return bad if slope is None else bad | ~slope.flatten(1).isfinite().all(1)
