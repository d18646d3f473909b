"""What a forward pass does beside computing logits: call autograd, change weights or modes, remember earlier passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.torch_state import changed_tensors

ENGINE: Final = "_engine_run_backward"  # what torch.autograd.grad and backward, and torch.func's transforms, end in


@dataclass
class Calls:
    """How often autograd was run."""

    count: int = 0


@contextlib.contextmanager
def autograd_calls() -> Iterator[Calls]:
    """Count the runs of autograd's engine inside the block: `torch.autograd.grad`, `backward`, `torch.func.grad`, …."""
    calls, run = Calls(), getattr(torch.autograd, ENGINE)

    def counting(*args: object, **kwargs: object) -> object:
        calls.count += 1
        return run(*args, **kwargs)

    setattr(torch.autograd, ENGINE, counting)
    try:
        yield calls
    finally:
        setattr(torch.autograd, ENGINE, run)


@torch.no_grad()
def forward_pass(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Ask the model once, and watch what else happens.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].

    Returns:
        `v1_state_changed` (B,), whether weights, buffers or modes differ afterwards, and `d1_autograd_calls` (B,),
        both the same for the whole batch; and the logits (B, K).
    """
    before = {k: v.detach().clone() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    modes = [module.training for module in model.modules()]
    with autograd_calls() as calls:
        logits = model(x.clone())
    changed = bool(changed_tensors(before, model.state_dict()))
    changed |= [module.training for module in model.modules()] != modes
    like = torch.ones(len(x), device=x.device)
    return {"v1_state_changed": float(changed) * like, "d1_autograd_calls": calls.count * like}, logits
