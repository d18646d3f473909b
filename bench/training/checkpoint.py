"""Training checkpoints: written atomically, with weights, optimiser, generators and position, and whose they are."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.computing_time import ComputingTime
from bench.core.errors import IntegrityError, MachineError
from bench.store.owned_file import read_owned, write_owned

CHECKPOINT_SECONDS = 60.0
_LONGEST_REASON: Final = 200  # characters of torch's own message


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


@dataclass(frozen=True)
class CheckpointFile:
    """Where a training's checkpoint lies, and what must be true of it.

    Attributes:
        path: of the file.
        owner: whose training it is: the cell, which is the hash of all that decides the weights, defense and seed.
        steps: steps that the whole training has.
    """

    path: Path
    owner: str
    steps: int


def save_checkpoint(file: CheckpointFile, state: TrainState) -> None:
    """Write a training's state and torch's generators to a file, atomically.

    Raises:
        MachineError: the disk is full, or the folder cannot be written.
    """
    content = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "sums": state.sums,
        "time": asdict(state.time),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    buffer = io.BytesIO()  # torch's own writer says nothing of a full disk but "unexpected pos"
    torch.save(content, buffer)
    write_owned(file.path, file.owner, buffer.getvalue())


def load_checkpoint(file: CheckpointFile, state: TrainState, device: torch.device) -> None:
    """Restore a training's state and torch's generators from a file; without the file nothing changes.

    Args:
        file: the checkpoint, and whose it must be.
        state: of the same network and optimiser, overwritten.
        device: where the tensors belong.

    Raises:
        IntegrityError: the file is damaged, of another training, or does not fit the network.
        MachineError: it cannot be read.
    """
    if not file.path.is_file():
        return
    try:
        _restore(_checked_body(file), file, state, device)
    except OSError as error:
        raise MachineError(f"{file.path}: expected a readable file, got {error.strerror}. Change its mode.") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
        raise IntegrityError(f"{file.path}: expected a training checkpoint of this cell, got {reason}.") from error


def _checked_body(file: CheckpointFile) -> bytes:
    """Return what torch has saved, proved to be whole and this training's.

    Raises:
        ValueError: it is not.
    """
    found = read_owned(file.path)
    if found.owner != file.owner:
        raise ValueError(f"one of {found.owner[:120]!r}, not of {file.owner!r}")
    return found.body


def _restore(body: bytes, file: CheckpointFile, state: TrainState, device: torch.device) -> None:
    """Put a checkpoint's content into a training's state.

    Raises:
        ValueError: it does not fit.
    """
    content = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    step = content["step"]
    if type(step) is not int or not 0 <= step <= file.steps:
        raise ValueError(f"step {step!r} of a training of {file.steps}")
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            momentum = state.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None and momentum.shape != parameter.shape:
                raise ValueError(f"a momentum {tuple(momentum.shape)} of a parameter {tuple(parameter.shape)}")
    torch.set_rng_state(content["rng"].cpu())
    if content["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in content["cuda_rng"]])
    state.step, state.time = step, ComputingTime(**content["time"])
    state.sums.clear()
    state.sums.update(content["sums"])


class Checkpointer:
    """Write a checkpoint every minute, and when asked.

    Args:
        file: where and whose; None: nowhere.
    """

    def __init__(self, file: CheckpointFile | None) -> None:
        self.file, self.saved = file, time.monotonic()

    def due(self, now: float, *, stopping: bool) -> bool:
        """Tell whether a checkpoint should be written at a time of the monotonic clock."""
        return self.file is not None and (stopping or now - self.saved > CHECKPOINT_SECONDS)

    def save(self, state: TrainState, now: float) -> None:
        """Write a checkpoint."""
        if self.file is not None:
            save_checkpoint(self.file, state)
            self.saved = now
