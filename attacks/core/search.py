"""What every attack's search shares: the input gradient, and the worst point met so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core.draws import DECIDED, RandomisedModel
from bench.attacks.core.losses import margin_loss

# A point counts as decided (and costs no further pass) once it is misclassified by more than rounding can
# take back: a margin of 1e-5 of the largest logit, about a hundred float32 roundings.
SLACK: Final = 1e-5


def slack(logits: Tensor) -> Tensor:
    """Return the margin (B,) from which on a misclassification survives another batch size or device."""
    return SLACK * logits.abs().amax(1)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits (B, K) without a graph; of a randomised model an estimate, never the draws that judge it."""
    return model.estimate(x) if isinstance(model, RandomisedModel) else model(x)


def gradient(
    model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor], eot_iter: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), objective (B,) and its gradient with respect to x (B, …), all detached.

    A model that passes no gradient yields zeros, which the attack counts; that is no error here.

    Args:
        model: maps x to logits (B, K).
        x: images (B, …).
        objective: maps logits (B, K) to one number per example, which must not depend on the other examples.
        eot_iter: passes of a randomised model over which all three are averaged (EOT, Athalye et al. 2018), ≥ 1.
    """
    sums: list[Tensor] = []
    for _ in range(eot_iter):
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
            value = objective(logits)
            grad = None
            if value.requires_grad:
                (grad,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
        terms = [logits.detach(), value.detach(), torch.zeros_like(x) if grad is None else grad]
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
    logits, value, grad = (s / eot_iter for s in sums) if eot_iter > 1 else sums
    return logits, value, grad


class Best:
    """The worst point met so far for every example, by margin, and which examples need no more attacking.

    Attributes:
        where: name of the attack, for messages.
        y: labels (B,).
        logits: of the clean images, (B, K).
        x_adv: (B, C, H, W), starts as the clean images.
        margin: its margin loss (B,), positive where misclassified.
        stopped: bool (B,), misclassified beyond rounding, or beyond the luck of the draws.
    """

    def __init__(self, where: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.where, self.y = where, y
        self.x_adv = x.clone()
        self.margin = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.stopped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._nonfinite = self.stopped.clone()
        self._decided = DECIDED if isinstance(model, RandomisedModel) else 0.0
        self.logits = predict(model, x)
        if len(y) and int(y.max()) >= self.logits.shape[1]:
            raise ValueError(
                f"{where}: expected labels below {self.logits.shape[1]}, the width of the logits, got {int(y.max())}. "
                "Pass class numbers."
            )
        self.update(torch.arange(len(x), device=x.device), x, self.logits)

    def update(self, rows: Tensor, x_adv: Tensor, logits: Tensor, valid: Tensor | None = None) -> Tensor:
        """Keep the points that have a larger margin loss than the best so far; return the margins (n,) there.

        Args:
            rows: the examples' places in the batch, (n,).
            x_adv: a point per example, (n, C, H, W).
            logits: the model's logits there, (n, K).
            valid: bool (n,), False where the point lies outside the ball and does not count.

        Returns:
            The margin loss at each point, (n,).
        """
        margin = margin_loss(logits, self.y[rows]).to(self.margin.dtype)
        if valid is not None:
            margin = torch.where(valid, margin, -torch.inf)
        better = margin > self.margin[rows]
        shape = (-1, *[1] * (x_adv.ndim - 1))
        self.x_adv[rows] = torch.where(better.view(shape), x_adv, self.x_adv[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.stopped[rows] |= margin > slack(logits).clamp_min(self._decided)
        self.flag_nonfinite(rows, logits)
        return margin

    def flag_nonfinite(self, rows: Tensor, values: Tensor) -> None:
        """Flag the examples `rows` (n,) that met a NaN or an infinity in `values` (n, …): logits or gradients."""
        self._nonfinite[rows] |= ~values.flatten(1).isfinite().all(1)

    def active(self) -> Tensor:
        """Return the indices of the examples still to be attacked (waits for the device)."""
        return (~self.stopped).nonzero()[:, 0]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the indices of the examples still to be attacked in batches of at most `size` ≥ 1."""
        todo = self.active()
        if len(todo):
            yield from todo.split(max(1, size))

    def finalize(self) -> Tensor:
        """Return the worst points (B, C, H, W).

        Raises:
            FloatingPointError: logits or gradients were not finite; such a model must never pass as robust.
        """
        if self._nonfinite.any():
            rows = self._nonfinite.nonzero()[:, 0].tolist()
            raise FloatingPointError(
                f"{self.where}: expected finite logits and gradients, got NaN or infinity on {len(rows)} of "
                f"{len(self._nonfinite)} examples (first at position {rows[0]} of the batch). Fix the model's "
                "forward; it cannot be judged so."
            )
        return self.x_adv


def kept_rows(keep: Tensor) -> Tensor | None:
    """Return the places (k,) at which a mask (n,) is True, None if it is so everywhere; waits for the device once.

    Indexing with the mask itself would wait at every use.
    """
    rows = keep.nonzero()[:, 0]
    return None if len(rows) == len(keep) else rows


def check_interval(x: Tensor) -> int:
    """Return how many steps may pass between two droppings of stopped examples.

    On a GPU each one waits for the device; on the CPU it is free. Verdicts do not depend on it; the worst point of an
    example that is attacked on for some steps may lie further beyond the boundary.
    """
    return 1 if x.device.type == "cpu" else 10
