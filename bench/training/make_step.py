"""The training step of a mode: eager, recorded as a CUDA graph, or compiled; the same arithmetic, fewer launches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.training.compiled import CompiledGradients
from bench.training.cuda_graph import CudaGraphStep, GpuStage
from bench.training.gradients import Autocast, EagerGradients, Gradients, Log, Loss
from bench.training.step import EagerStep, Step


def make_step(
    mode: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    sums: dict[str, Tensor],
    *,
    autocast: Autocast,
    size: int,
    log: Log,
) -> Step:
    """Return a training step.

    Args:
        mode: "eager", "graph" (needs a GPU; one line and "eager" without) or "compile" (on a GPU also recorded).
        model: in training mode, on its device.
        optimizer: of the model's parameters.
        loss: `loss(model, x, y) -> terms`.
        sums: totals of the epoch, see `EagerStep`.
        autocast: makes the context of the forward passes.
        size: images of a full batch, for which a compiled step is made.
        log: called once, with one line, if a mode is not available.
    """
    gradients: Gradients = EagerGradients(model, loss, autocast)
    if mode == "compile":
        gradients = CompiledGradients(model, loss, autocast, size=size, log=log)
    step, device = EagerStep(model, optimizer, gradients, sums), next(model.parameters()).device
    if mode != "eager" and device.type == "cuda":
        return CudaGraphStep(step, log=log, stage=GpuStage(device))
    if mode == "graph":
        log(f"training step: expected a GPU to record it on, got {device.type}. Going on operation by operation.")
    return step
