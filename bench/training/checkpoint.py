"""Training checkpoints: written atomically, with optimiser, generators and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core import files
from bench.core.errors import IntegrityError


@dataclass
class TrainProgress:
    """Where a training stands: what a checkpoint holds besides weights and optimiser."""

    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainProgress) -> None:
    """Write a checkpoint atomically."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "sums": progress.sums,
        "seconds": progress.seconds,
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with files.atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(
    path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> TrainProgress | None:
    """Load a checkpoint into model, optimiser and generators; None if there is none."""
    if path is None or not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
        return TrainProgress(int(state["step"]), dict(state["sums"]), float(state["seconds"]))
    except Exception as error:
        raise IntegrityError(
            f"{path}: expected a training checkpoint of this cell, got {type(error).__name__}: {error}. "
            "Delete the file to train from the start."
        ) from error
