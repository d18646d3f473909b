"""Count the images that pass through a network, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

from bench.attacks.core.draws import RandomisedModel
from bench.core.torch_state import whole_batch


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
        passes.backwards += _images(gradient)

    def forward(module: nn.Module, inputs: object, output: Tensor) -> None:
        passes.forwards += _images(output)
        if output.requires_grad:
            output.register_hook(backward)

    handle = after_forward(model, forward)
    try:
        yield passes
    finally:
        handle.remove()


def _images(logits: Tensor) -> int:
    """Return of how many images logits (…, K) are, or gradients in them; a torch.func batch counts entry by entry."""
    whole = whole_batch(logits)
    return whole.numel() // whole.shape[-1]


def after_forward(model: nn.Module, hook: Callable[[nn.Module, object, Tensor], None]) -> RemovableHandle:
    """Call a function after every pass of the model (of a randomised one's network); a script takes no hooks itself."""
    if isinstance(model, RandomisedModel):
        model = model.network
    if not isinstance(model, torch.jit.ScriptModule):
        return model.register_forward_hook(hook)

    def of_all(module: nn.Module, inputs: object, output: Tensor) -> None:
        if module is model:
            hook(module, inputs, output)

    return register_module_forward_hook(of_all)
