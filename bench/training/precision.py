"""Precision and memory layout of training on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from bench.core.recipe import Precision
from bench.core.torch_state import tf32
from bench.training.execution import ExecutionConfig

CPU_PIXELS = 256  # pixels of an image from which a CPU gains by channels last


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision of training on a device: "fp32", "tf32" or "bf16"; a CPU has only fp32.

    Args:
        precision: of a recipe. "auto" is bf16 from compute capability 8.0 (Ampere) on; older GPUs only emulate it.
        device: where the training runs.
    """
    if device.type != "cuda":
        return "fp32"
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context for the forward passes of one step: bfloat16 on a GPU if the precision is "bf16".

    Enter a new one in every step: torch keeps the weights that it has cast until the outermost context ends, so
    that one around the whole training would go on using those of the first step.

    Args:
        precision: as `resolve_precision` returns it.
        device: where the training runs.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and device.type == "cuda")


@contextlib.contextmanager
def torch_settings(execution: ExecutionConfig, precision: str, device: torch.device) -> Iterator[None]:
    """Set torch's switches for training inside the block: TF32, cuDNN's search, determinism; none on a CPU.

    Args:
        execution: deterministic or not.
        precision: as `resolve_precision` returns it.
        device: where the training runs.

    Yields:
        Nothing.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    old = cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    try:
        cudnn.benchmark, cudnn.deterministic = not execution.deterministic, execution.deterministic
        torch.use_deterministic_algorithms(execution.deterministic or strict)
        memory.fill_uninitialized_memory = False  # nothing here reads such memory
        with tf32(precision != "fp32"):
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = old
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = fill


def memory_format(size: tuple[int, int], precision: str, device: torch.device) -> torch.memory_format:
    """Return the memory layout of images and convolutions with which a step is fastest.

    Channels last: a GPU's tensor cores (bfloat16, TF32) want them so; on a CPU a step of ResNet-18 on 32×32 takes
    0.84 of the time (Standard) to 0.93 (GradReg), while on 8×8 it gains nothing.

    Args:
        size: (H, W) of an image.
        precision: as `resolve_precision` returns it.
        device: where the training runs.
    """
    last = precision != "fp32" if device.type == "cuda" else size[0] * size[1] >= CPU_PIXELS
    return torch.channels_last if last else torch.contiguous_format
