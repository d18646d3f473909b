"""One epoch of training, from its first step or from a checkpoint's, and what the log says of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from bench.core.computing_time import ComputingTime, Stopwatch
from bench.core.errors import Stopped
from bench.core.seeding import derive, seed_everything
from bench.core.text import one_line
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.memory import HalvingBatches
from bench.models.layers import layer_statistics
from bench.training.batches import Batches
from bench.training.checkpoint import Checkpointer, TrainState
from bench.training.hooks import set_epoch
from bench.training.optimization import learning_rate
from bench.training.step import Step

_HELD_OUT_BATCH: Final = 500
SIGMA_ERROR_EVERY: Final = 10  # epochs from one log of the spectral norms' error to the next; the last has one too


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What the log of a training says of an epoch.

    Attributes:
        epoch: counted from 1.
        loss: sum of the terms.
        terms: mean of each loss term over the images, as met while training.
        train_accuracy: share of images right in the first forward pass of their step; None if unknown.
        holdout_accuracy: accuracy on the images kept apart, in eval mode; None without any.
        lr: learning rate of the last step.
        time: of the epoch's steps, all its parts together, without checkpoints and the held-out accuracy.
        statistics: numbers of the layers, see `layer_statistics`.
        nonfinite: names of the weights and buffers that hold NaN or infinity; not part of the log.
    """

    epoch: int
    loss: float
    terms: Mapping[str, float]
    train_accuracy: float | None
    holdout_accuracy: float | None
    lr: float
    time: ComputingTime
    statistics: Mapping[str, float] = field(default_factory=dict)
    nonfinite: frozenset[str] = frozenset()

    def as_data(self) -> dict[str, object]:
        """Return the record as plain data, the statistics beside the other numbers, which keep their names."""
        return {
            **self.statistics,
            "epoch": self.epoch,
            "loss": self.loss,
            "terms": dict(self.terms),
            "train_accuracy": self.train_accuracy,
            "holdout_accuracy": self.holdout_accuracy,
            "lr": self.lr,
            **self.time.as_data(),
        }


def train_epoch(
    state: TrainState,
    step: Step,
    batches: Batches,
    epoch: int,
    *,
    holdout: Split | None,
    checkpointer: Checkpointer,
    should_stop: Callable[[], bool],
) -> EpochRecord:
    """Run what is left of an epoch.

    Args:
        state: before the epoch, or inside it; changed in place.
        step: trains the state's network and adds to its sums.
        batches: of the training images, with the recipe and the seed.
        epoch: counted from 0.
        holdout: images to measure on after the epoch; None: none.
        checkpointer: writes checkpoints while the epoch runs.
        should_stop: called after each step but the epoch's last.

    Returns:
        The record of the finished epoch.

    Raises:
        Stopped: `should_stop` returned True.
    """
    watch, first = Stopwatch(batches.images.device), state.step - epoch * batches.per_epoch
    if first == 0:
        seed_everything(derive("epoch", batches.seed, epoch))
        step.reset()
        state.time = ComputingTime()
    state.model.train()
    if set_epoch(state.model, epoch):
        step.invalidate()
    for x, y in batches.of_epoch(epoch, first):
        step(x, y, learning_rate(batches.recipe, state.step, batches.per_epoch))
        state.step += 1
        if state.step % batches.per_epoch:
            pause(state, watch, checkpointer, should_stop)
    state.time += watch.read()
    return _record(state, batches, holdout)


def pause(state: TrainState, watch: Stopwatch, checkpointer: Checkpointer, should_stop: Callable[[], bool]) -> None:
    """Write a checkpoint if one is due, and stop if that is asked for.

    After an epoch's last step it is called once the epoch's record is written: a training that goes on from there
    would not write it again.

    Args:
        state: what a checkpoint holds.
        watch: runs while the training computes; its time so far is added to the state's before a checkpoint.
        checkpointer: writes checkpoints.
        should_stop: whether to stop here.

    Raises:
        Stopped: `should_stop` returned True; a checkpoint is written.
    """
    stop, now = should_stop(), time.monotonic()
    if checkpointer.due(now, stopping=stop):
        state.time += watch.read()
        checkpointer.save(state, now)
        watch.restart()
    if stop:
        raise Stopped(f"training stopped after step {state.step}; run the same command to go on.")


def _record(state: TrainState, batches: Batches, holdout: Split | None) -> EpochRecord:
    """Return the record of the epoch that has just ended; measuring the held-out accuracy leaves eval mode on."""
    sums = {k: float(v) / len(batches.labels) for k, v in state.sums.items()}
    terms = {one_line(k.removeprefix("term:"), 100): v for k, v in sums.items() if k.startswith("term:")}
    epoch, bad = state.step // batches.per_epoch, nonfinite(state.model)
    statistics: dict[str, float] = {}
    if not bad & parameter_names(state.model):
        due = epoch % SIGMA_ERROR_EVERY == 0 or epoch == batches.recipe.epochs
        statistics = layer_statistics(state.model, sigma_error=due)
    return EpochRecord(
        epoch=epoch,
        loss=sum(terms.values()),
        terms=terms,
        train_accuracy=None if math.isnan(sums["correct"]) else sums["correct"],
        holdout_accuracy=_accuracy(state.model, holdout, batches.images.device),
        lr=learning_rate(batches.recipe, state.step - 1, batches.per_epoch),
        time=state.time,
        statistics=statistics,
        nonfinite=bad,
    )


def _accuracy(model: nn.Module, split: Split | None, device: torch.device) -> float | None:
    """Return the accuracy on held-out images in eval mode; None without any."""
    if split is None or len(split.labels) == 0:
        return None
    model.eval()

    def count(part: slice) -> int:
        x = to_unit(torch.tensor(split.images[part]).to(device))
        return int((model(x).argmax(1) == torch.tensor(split.labels[part]).to(device)).sum())

    with torch.no_grad():
        correct = HalvingBatches("accuracy on held-out images", _HELD_OUT_BATCH).run(range(len(split.labels)), count)
    return sum(correct) / len(split.labels)


def nonfinite(model: nn.Module) -> frozenset[str]:
    """Return the names of the weights and buffers that hold NaN or infinity; waits for the device once."""
    numbers = {k: v for k, v in model.state_dict().items() if v.is_floating_point() or v.is_complex()}
    if not numbers:
        return frozenset()
    finite = torch.stack([torch.isfinite(v).all() for v in numbers.values()]).tolist()
    return frozenset(k for k, fine in zip(numbers, finite, strict=True) if not fine)


def parameter_names(model: nn.Module) -> set[str]:
    """Return the names of the model's parameters in its state_dict, of tied ones every name."""
    return {k for k, _ in model.named_parameters(remove_duplicate=False)}
