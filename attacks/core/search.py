"""What every attack's search shares: the input gradient, and the worst point met so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core.losses import margin_loss

# A point counts as decided (and costs no further pass) once it is misclassified by more than rounding can
# take back: a margin of 1e-5 of the largest logit, about a hundred float32 roundings.
SLACK: Final = 1e-5


def slack(logits: Tensor) -> Tensor:
    """Return the margin (B,) from which on a misclassification survives another batch size or device."""
    return SLACK * logits.abs().amax(1)


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return logits (B, K) without a graph."""
    return model(x)


def gradient(
    model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor], draws: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), objective (B,) and its gradient with respect to x (B, …), all detached.

    A model that passes no gradient yields zeros, which the attack counts; that is no error here.

    Args:
        objective: maps logits (B, K) to one number per example, which must not depend on the other examples.
        draws: passes of a randomised model over which all three are averaged (EOT, Athalye et al. 2018).
    """
    sums: list[Tensor] = []
    for _ in range(draws):
        point = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(point)
            value = objective(logits)
            slope = None
            if value.requires_grad:
                (slope,) = torch.autograd.grad(value.sum(), point, allow_unused=True)
        terms = [logits.detach(), value.detach(), torch.zeros_like(x) if slope is None else slope]
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
    logits, value, slope = (s / draws for s in sums) if draws > 1 else sums
    return logits, value, slope


class Best:
    """The worst point met so far for every example, by margin, and which examples need no more attacking.

    Attributes:
        point: (B, C, H, W), starts as the clean images.
        margin: its margin loss (B,), positive where misclassified.
        stopped: bool (B,), misclassified beyond rounding.
    """

    def __init__(self, where: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self.where, self.y = where, y
        self.point = x.clone()
        self.margin = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        self.stopped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._bad = self.stopped.clone()
        self.logits = predict(model, x)
        self.see(torch.arange(len(x), device=x.device), x, self.logits)

    def see(self, rows: Tensor, point: Tensor, logits: Tensor, valid: Tensor | None = None) -> Tensor:
        """Take note of the model's answer at `point` for the examples `rows`; return the margins there.

        Points where `valid` is False lie outside the ball and do not count.
        """
        margin = margin_loss(logits, self.y[rows]).to(self.margin.dtype)
        if valid is not None:
            margin = torch.where(valid, margin, -torch.inf)
        better = margin > self.margin[rows]
        shape = (-1, *[1] * (point.ndim - 1))
        self.point[rows] = torch.where(better.view(shape), point, self.point[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.stopped[rows] |= margin > slack(logits)
        self.note(rows, logits)
        return margin

    def note(self, rows: Tensor, values: Tensor) -> None:
        """Remember which examples met a NaN or an infinity in `values` (n, …): logits or gradients."""
        self._bad[rows] |= ~values.flatten(1).isfinite().all(1)

    def open(self) -> Tensor:
        """Return the indices of the examples still to be attacked (waits for the device)."""
        return (~self.stopped).nonzero()[:, 0]

    def parts(self, rows: int) -> Iterator[Tensor]:
        """Yield the examples still to be attacked in parts of at most `rows`."""
        todo = self.open()
        if len(todo):
            yield from todo.split(max(1, rows))

    def result(self) -> Tensor:
        """Return the worst points (B, C, H, W).

        Raises:
            FloatingPointError: logits or gradients were not finite; such a model must never pass as robust.
        """
        if self._bad.any():
            rows = self._bad.nonzero()[:, 0].tolist()
            raise FloatingPointError(
                f"{self.where}: expected finite logits and gradients, got NaN or infinity on {len(rows)} of "
                f"{len(self._bad)} examples (first at position {rows[0]} of the batch). Mend the model's forward; "
                "it cannot be judged so."
            )
        return self.point


def check_interval(x: Tensor) -> int:
    """Return how many steps may pass between two droppings of stopped examples.

    On a GPU each one waits for the device; on the CPU it is free. Results do not depend on it.
    """
    return 1 if x.device.type == "cpu" else 10
