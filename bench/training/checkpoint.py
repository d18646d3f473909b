"""Training checkpoints: written atomically, with weights, optimiser, generators and position."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core import files
from bench.core.computing_time import ComputingTime
from bench.core.errors import IntegrityError

CHECKPOINT_SECONDS = 60.0


@dataclass
class TrainState:
    """What changes while a network is trained.

    Attributes:
        model: the network, on its device.
        optimizer: of its parameters.
        step: steps taken since the start of training.
        sums: totals of the epoch, see `EagerStep`.
        time: spent on the epoch so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    time: ComputingTime = field(default_factory=ComputingTime)


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Write a training's state and torch's generators to a file, atomically."""
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "sums": state.sums,
        "time": asdict(state.time),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with files.atomic(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path, state: TrainState, device: torch.device) -> None:
    """Restore a training's state and torch's generators from a file; without the file nothing changes.

    Args:
        path: of the checkpoint.
        state: of the same network and optimiser, overwritten.
        device: where the tensors belong.

    Raises:
        IntegrityError: the file cannot be read, or is of another network.
    """
    if not path.is_file():
        return
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"].cpu())
        if content["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in content["cuda_rng"]])
        state.step, state.time = int(content["step"]), ComputingTime(**content["time"])
        state.sums.clear()
        state.sums.update(content["sums"])
    except Exception as error:
        raise IntegrityError(
            f"{path}: expected a training checkpoint of this cell, got {type(error).__name__}: {error}. "
            "Delete the file to train from the start."
        ) from error


class Checkpointer:
    """Write a checkpoint every minute, and when asked.

    Args:
        path: where; None: nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.saved = path, time.monotonic()

    def due(self, now: float, *, stopping: bool) -> bool:
        """Tell whether a checkpoint should be written at a time of the monotonic clock."""
        return self.path is not None and (stopping or now - self.saved > CHECKPOINT_SECONDS)

    def save(self, state: TrainState, now: float) -> None:
        """Write a checkpoint."""
        if self.path is not None:
            save_checkpoint(self.path, state)
            self.saved = now
