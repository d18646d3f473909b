"""Count the images that pass through a network, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from bench.core.torch_state import is_functorch_wrapped


@dataclass
class Passes:
    """Images passed through the network, forward and backward."""

    forwards: int = 0
    backwards: int = 0


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count the images that pass through `model` inside the block, forward and backward through its logits."""
    passes = Passes()

    def backward(gradient: Tensor) -> None:
        passes.backwards += len(gradient)

    def forward(module: nn.Module, inputs: object, output: Tensor) -> None:
        passes.forwards += len(output)
        if output.requires_grad and not is_functorch_wrapped(output):
            output.register_hook(backward)

    handle = model.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()
