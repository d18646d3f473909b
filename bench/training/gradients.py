"""Gradients of a step's loss, launched one operation at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
Gradients = Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Tensor | None]]
Log = Callable[[str], None]


def eager_gradients(model: nn.Module, loss: Loss, autocast: Autocast) -> Gradients:
    """Return what computes the gradients of the summed loss terms by autograd."""

    def gradients(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        total, terms, logits = forward_terms(model, loss, autocast, x, y)
        total.backward()
        return terms, logits

    return gradients


def forward_terms(
    model: nn.Module, loss: Loss, autocast: Autocast, x: Tensor, y: Tensor
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Return the sum of the loss terms with its graph, the terms without, and the first forward pass' logits."""
    with autocast(), _first_logits(model) as seen:
        terms = loss(model, x, y)
    half = (torch.bfloat16, torch.float16)
    total = torch.stack([t.float() if t.dtype in half else t for t in terms.values()]).sum()
    return total, {k: v.detach() for k, v in terms.items()}, seen[0] if seen else None


@contextlib.contextmanager
def _first_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Catch the output of the model's first forward pass inside the block."""
    seen: list[Tensor] = []

    def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not seen:
            seen.append(output.detach())

    handle = model.register_forward_hook(catch)
    try:
        yield seen
    finally:
        handle.remove()


def first_line(cause: object) -> str:
    """Return an error or a message as one line of at most 120 characters."""
    text = " ".join(str(cause).split())[:120]
    return f"{type(cause).__name__}: {text}" if isinstance(cause, Exception) else text
