"""How a training is carried out: route of a step, determinism, precision, memory layout. The recipe says what is done.

Nothing here changes a result but by rounding; what does change rounding is part of the cell's key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from bench.core.errors import UsageError, nearest
from bench.core.records import Precision

Route = Literal["auto", "eager", "graph", "compile"]
ROUTES: tuple[str, ...] = get_args(Route)
CPU_PIXELS = 256  # pixels of an image from which a CPU gains by channels last


def route_of(text: str) -> Route:
    """Return a route by its name.

    Raises:
        UsageError: there is none of that name.
    """
    for route in get_args(Route):
        if text == route:
            return route
    raise UsageError(f"--step: expected {', '.join(ROUTES)}, got {text!r}. {nearest(text, ROUTES)}")


@dataclass(frozen=True, slots=True)
class Execution:
    """The choice of the command line.

    Attributes:
        step: "eager" launches a step's operations one by one; "graph" replays them as one CUDA graph, the same
            kernels; "compile" fuses them into new ones, which rounds differently; "auto" is "graph" on a GPU and
            "eager" on a CPU.
        deterministic: on a GPU, only algorithms that give the same bits each time, at some cost. On a CPU they all
            do, for a fixed number of threads.
    """

    step: Route = "auto"
    deterministic: bool = False

    def __post_init__(self) -> None:
        route_of(self.step)

    def route(self, device: torch.device) -> str:
        """Return "eager", "graph" or "compile" for a device."""
        if self.step == "auto":
            return "graph" if device.type == "cuda" else "eager"
        return self.step

    def key(self, device: torch.device) -> dict[str, Any]:
        """Return the part of a cell's key: what rounds differently from the default; {} for most."""
        compiled = {"step": "compile"} if self.step == "compile" else {}
        return compiled | ({"deterministic": True} if self.deterministic and device.type == "cuda" else {})

    def describe(self, device: torch.device) -> dict[str, Any]:
        """Return what a manifest says."""
        return {"step": self.route(device), "deterministic": self.deterministic or device.type == "cpu"}

    def settle(self) -> None:
        """Prepare the process; before the first work on a GPU, because cuBLAS reads its setting only once."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def resolved(precision: Precision, device: torch.device) -> Precision:
    """Return "fp32", "tf32" or "bf16": what a recipe's precision (see `bench.Recipe`) comes to on a device.

    "auto" is bf16 from compute capability 8.0 (Ampere) on; older GPUs only emulate it.
    """
    if device.type != "cuda":
        return "fp32"
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context for the forward passes of one step: bfloat16 on a GPU if the (`resolved`) precision says so.

    To be entered anew in every step: torch keeps the weights that it has cast until the outermost context ends, so
    that one around the whole training would go on using those of the first step.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and device.type == "cuda")


@contextlib.contextmanager
def settings(execution: Execution, precision: str, device: torch.device) -> Iterator[None]:
    """Have torch's switches as a training wants them inside the block: TF32, cuDNN's search, determinism.

    A CPU computes in float32 whatever the recipe's precision.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    old = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
        cudnn.benchmark, cudnn.deterministic = not execution.deterministic, execution.deterministic
        torch.use_deterministic_algorithms(execution.deterministic or strict)
        memory.fill_uninitialized_memory = False  # nothing here reads such memory
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = old
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = fill


def memory_format(size: tuple[int, int], precision: str, device: torch.device) -> torch.memory_format:
    """Return the layout of images and convolutions with which a step on images of (H, W) is fastest.

    Channels last: a GPU's tensor cores (bfloat16, TF32) want them so; on a CPU a step of ResNet-18 on 32×32 takes
    0.84 of the time (Standard) to 0.93 (GradReg), while on 8×8 it gains nothing.
    """
    last = precision != "fp32" if device.type == "cuda" else size[0] * size[1] >= CPU_PIXELS
    return torch.channels_last if last else torch.contiguous_format
