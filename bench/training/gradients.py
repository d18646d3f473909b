"""Gradients of a step's loss, launched one operation at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
Log = Callable[[str], None]
Computed = tuple[dict[str, Tensor], Tensor | None]


class Gradients(Protocol):
    """A way to compute the gradients of a batch."""

    def __call__(self, x: Tensor, y: Tensor) -> Computed:
        """Put the gradients of x (B, C, H, W), y (B,) into the parameters.

        Returns:
            The loss terms, scalars without a graph, and the logits of the first forward pass, None if unknown.
        """

    def invalidate(self) -> None:
        """Drop what was traced or compiled: a number that the model or its loss keeps in Python has changed."""


class EagerGradients:
    """Gradients of the summed loss terms by autograd.

    Args:
        model: in training mode.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
    """

    def __init__(self, model: nn.Module, loss: Loss, autocast: Autocast) -> None:
        self.model, self.loss, self.autocast = model, loss, autocast

    def __call__(self, x: Tensor, y: Tensor) -> Computed:
        """Put the gradients into the parameters; return the loss terms and the first logits."""
        total, terms, logits = forward_terms(self.model, self.loss, self.autocast, x, y)
        total.backward()
        return terms, logits

    def invalidate(self) -> None:
        """Do nothing: every call reads the model anew."""


def forward_terms(
    model: nn.Module, loss: Loss, autocast: Autocast, x: Tensor, y: Tensor
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Run the forward passes of a loss.

    Args:
        model: in training mode.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
        x: images (B, C, H, W).
        y: labels (B,).

    Returns:
        The sum of the loss terms with its graph, the terms without, and the logits of the first forward pass.
    """
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
