"""How a training is carried out: mode of a step, determinism. The recipe says what is done.

Nothing here changes a result but by rounding; what does change rounding is part of the cell's key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from bench.core.errors import UsageError, did_you_mean

StepMode = Literal["auto", "eager", "graph", "compile"]
STEP_MODES: tuple[str, ...] = get_args(StepMode)


def parse_step_mode(text: str) -> StepMode:
    """Return the mode of a step by its name.

    Raises:
        UsageError: there is none of that name.
    """
    for mode in get_args(StepMode):
        if text == mode:
            return mode
    raise UsageError(f"--step: expected {', '.join(STEP_MODES)}, got {text!r}. {did_you_mean(text, STEP_MODES)}")


@dataclass(frozen=True, slots=True)
class ExecutionConfig:
    """The choice of the command line.

    Attributes:
        step: "eager" launches a step's operations one by one; "graph" replays them as one CUDA graph, the same
            kernels; "compile" fuses them into new ones, which rounds differently; "auto" is "graph" on a GPU and
            "eager" on a CPU.
        deterministic: on a GPU, only algorithms that give the same bits each time, at some cost. On a CPU they all
            do, for a fixed number of threads; another number rounds differently, under the same key.
    """

    step: StepMode = "auto"
    deterministic: bool = False

    def __post_init__(self) -> None:
        parse_step_mode(self.step)

    def step_mode(self, device: torch.device) -> str:
        """Return "eager", "graph" or "compile" for a device."""
        if self.step == "auto":
            return "graph" if device.type == "cuda" else "eager"
        return self.step

    def key(self, device: torch.device) -> dict[str, str | bool]:
        """Return the part of a cell's key: what rounds differently from the default; {} for most."""
        found: dict[str, str | bool] = {}
        if self.step == "compile":
            found["step"] = "compile"
        if self.deterministic and device.type == "cuda":
            found["deterministic"] = True
        return found

    def apply(self) -> None:
        """Set the process up; before the first work on a GPU, because cuBLAS reads its setting only once."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
