"""A process of a group that trains on digits together: started by test_split.py, once per rank.

Usage: python split_worker.py FOLDER SECONDS SPEC...  A SPEC is `defense[:key=value]`, alone or behind "resumed"; "dies"
ends the last process within a training, "stops" makes it say nothing. What came out is FOLDER/<spec> <rank>.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.config.defense_spec import parse_defense_spec
from bench.core import registry
from bench.core.decorators import defense
from bench.core.errors import BenchError, Stopped
from bench.core.recipe import PAPER, Recipe
from bench.data import catalog
from bench.models.backbones import build
from bench.training.epoch import EpochRecord
from bench.training.loop import TrainJob, train
from bench.training.split.group import Group

IMAGES, BATCH, EPOCHS = 110, 32, 2  # four batches, the last of 14: the parts of three processes differ in size


def job_of(spec: str, seed: int = 0) -> TrainJob:
    """Return the training of a defense on a few digits."""
    parsed = parse_defense_spec(spec, "test")
    entry = registry.defenses.get(parsed.name)
    small = Recipe(epochs=EPOCHS, batch_size=BATCH, schedule="onecycle", augment="crop_flip", precision="fp32")
    recipe = PAPER.with_overrides(entry.recipe, small, parsed.recipe)
    data = catalog.load("digits", train_limit=IMAGES, limit=10)
    return TrainJob(
        entry, {**entry.hyperparameters, **parsed.hyperparameters}, recipe, "convnet", 10, (1, 8, 8), seed, data.train
    )


def curve(spec: str, group: Group | None = None, **options: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """Return the log of a training, and sums of its weights and buffers."""
    records: list[dict[str, Any]] = []

    def keep(record: EpochRecord) -> None:
        records.append({"terms": dict(record.terms), "accuracy": record.train_accuracy})

    model = train(job_of(spec), torch.device("cpu"), on_epoch=keep, group=group, **options)
    return records, [float(v.double().abs().sum()) for v in model.state_dict().values()]


class OwnNorm(torch.nn.Module):
    """Divides by the batch's own deviation, by no function that is replaced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x (B, C, H, W)."""
        return x / (1e-3 + x.std(0, keepdim=True))


def register_wrong_ones() -> None:
    """Register trainings that cannot be split; in this process alone, where no test looks at the registry."""

    @defense(source="test", recipe=Recipe(loss=lambda model, x, y: {"squared": model(x).mean().square()}))
    def no_mean(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> torch.nn.Module:
        """Train on a term that is no mean over the batch."""
        return build(backbone, num_classes, in_shape)

    @defense(source="test")
    def own_norm(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> torch.nn.Module:
        """Train a network that normalises over the batch in its own way."""
        return torch.nn.Sequential(OwnNorm(), build(backbone, num_classes, in_shape))


def main() -> None:
    """Train each defense with the other processes; write what came out."""
    torch.set_num_threads(1)
    register_wrong_ones()
    folder, group = Path(sys.argv[1]), Group(torch.device("cpu"), float(sys.argv[2]), "gloo")
    for spec in sys.argv[3:]:
        begun = time.monotonic()
        try:
            found: object = _found(spec, folder, group)
        except BenchError as error:
            found = {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - begun}
        (folder / f"{spec} {group.rank}.json").write_text(json.dumps(found))
    group.close()


def _found(spec: str, folder: Path, group: Group) -> object:
    if spec.startswith("resumed "):
        return _resumed(spec.removeprefix("resumed "), folder, group)
    if spec not in ("dies", "stops"):
        return curve(spec, group)

    def end(epoch: object) -> None:
        if group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGKILL if spec == "dies" else signal.SIGSTOP)

    return repr(train(job_of("standard"), torch.device("cpu"), group=group, on_epoch=end))


def _resumed(spec: str, folder: Path, group: Group) -> object:
    """Stop a training after five steps, and go on from the first process's checkpoint."""
    steps = iter(range(1, 100))
    kept = {"checkpoint": folder / "cell.ckpt"} if group.rank == 0 else {}
    try:
        curve(spec, group, should_stop=lambda: next(steps) == 5, **kept)
    except Stopped:
        return curve(spec, group, **kept)
    return "was not stopped"


if __name__ == "__main__":
    main()
