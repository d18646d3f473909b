"""The only training loop: a defense's factory, loss and recipe in; a trained network and its log out.

Nothing in a step waits for the device: the loss terms are summed there and read once an epoch. Every random draw
comes from the cell's seed and the epoch, so that a resumed training is bit-equal to an uninterrupted one on the same
device.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.core import files
from bench.core.errors import BenchError
from bench.core.recipe import LossFunction, TrainingRecipe
from bench.core.records import Defense
from bench.core.seeding import derive, seed_everything
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.models.layers import layer_statistics
from bench.training.batches import Batches
from bench.training.checkpoint import TrainProgress, load_checkpoint, save_checkpoint
from bench.training.execution import ExecutionConfig
from bench.training.gradients import Log
from bench.training.optimization import learning_rate, parameter_groups
from bench.training.precision import autocast, memory_format, torch_settings
from bench.training.step import EagerStep, make_step

CHECKPOINT_SECONDS = 60.0


class Diverged(BenchError):
    """The loss or a weight became NaN or infinite."""


class Stopped(BenchError):
    """The work was asked to stop; a checkpoint has been written."""


@dataclass(frozen=True)
class TrainJob:
    """Everything that one training needs.

    Attributes:
        defense: the registered defense.
        hyperparameters: all of its hyper-parameters, defaults filled in.
        recipe: its precision is that of the device (`resolve_precision`).
        backbone: name of the backbone, e.g. "resnet18".
        num_classes: K.
        shape: (C, H, W) of an image.
        seed: the training seed.
        train: the images to train on.
        holdout: images kept apart to measure on after each epoch; None: none.
    """

    defense: Defense
    hyperparameters: dict[str, Any]
    recipe: TrainingRecipe
    backbone: str
    num_classes: int
    shape: tuple[int, int, int]
    seed: int
    train: Split
    holdout: Split | None = None

    def __post_init__(self) -> None:
        if self.recipe.precision == "auto":
            raise ValueError("TrainJob: expected a precision, got 'auto'. Call resolve_precision first.")

    def build(self) -> nn.Module:
        """Return the untrained network, initialised from the seed alone."""
        seed_everything(derive("initialisation", self.seed))
        return self.defense.function(self.num_classes, self.shape, self.backbone, **self.hyperparameters)


def train(
    job: TrainJob,
    device: torch.device,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
    execution: ExecutionConfig | None = None,
    say: Log = lambda text: None,
) -> nn.Module:
    """Train a network and return it in eval mode, its layers finalised (spectral vectors converged and frozen).

    Args:
        job: what to train.
        device: where.
        checkpoint: file to resume from and to write to every minute; the caller removes it once the weights are
            stored. None: no checkpoints.
        on_epoch: called with the log record of each finished epoch.
        should_stop: asked after each step; when it says yes a checkpoint is written and `Stopped` raised.
        execution: how: eagerly, as a CUDA graph, compiled; deterministically or not. None: the default.
        say: told, in one line, of a way that is not available here.

    Raises:
        Diverged: a loss term is not finite; names the epoch and the last good weights.
        Stopped: `should_stop` said so.
        IntegrityError: the checkpoint does not fit or cannot be read.
    """
    execution, precision = execution or ExecutionConfig(), job.recipe.precision
    model = job.build().to(device)
    layout = memory_format((job.shape[1], job.shape[2]), precision, device)
    model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        parameter_groups(model, job.recipe.weight_decay),
        lr=job.recipe.lr,
        momentum=job.recipe.momentum,
        fused=device.type == "cuda",
    )
    batches = Batches(job.train, job.recipe, job.seed, device, layout)
    progress = load_checkpoint(checkpoint, model, optimizer, device) or TrainProgress()
    step = make_step(
        execution.route(device), model, optimizer, bound_loss(job.recipe.loss, job.hyperparameters), progress.sums,
        autocast=lambda: autocast(precision, device), size=job.recipe.batch_size, say=say,
    )  # fmt: skip
    loop = _Loop(job, step, batches, progress, checkpoint, should_stop)
    good: dict[str, Tensor] = {}
    with torch_settings(execution, precision, device):
        for epoch in range(progress.step // batches.per_epoch, job.recipe.epochs):
            record = loop.epoch(epoch)
            if not all(math.isfinite(v) for v in record["terms"].values()) or not _finite(model):
                raise Diverged(_divergence(job, epoch, record, good, checkpoint))
            good = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            on_epoch(record)
    optimizer.zero_grad(set_to_none=True)
    model = model.to(memory_format=torch.contiguous_format)
    finalize(model)
    return model.eval()


class _Loop:
    """One epoch after the other over the same step and batches."""

    def __init__(
        self,
        job: TrainJob,
        step: EagerStep,
        batches: Batches,
        progress: TrainProgress,
        checkpoint: Path | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.job, self.step, self.model, self.batches = job, step, step.model, batches
        self.progress, self.checkpoint, self.should_stop = progress, checkpoint, should_stop
        self.saved = time.monotonic()

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Run what is left of an epoch and return its log record."""
        progress, started = self.progress, time.monotonic()
        first = progress.step - epoch * self.batches.per_epoch
        if first == 0:
            seed_everything(derive("epoch", self.job.seed, epoch))
            self.step.reset()
            progress.seconds = 0.0
        self.model.train()
        if set_epoch(self.model, epoch):
            self.step.forget()
        for x, y in self.batches.of_epoch(epoch, first):
            self.step(x, y, learning_rate(self.job.recipe, progress.step, self.batches.per_epoch))
            progress.step += 1
            stop, now = self.should_stop(), time.monotonic()
            if self.checkpoint and (stop or now - self.saved > CHECKPOINT_SECONDS):
                progress.seconds += now - started
                started = self.saved = now
                save_checkpoint(self.checkpoint, self.model, self.step.optimizer, progress)
            if stop:
                raise Stopped(f"training stopped after step {progress.step}; run the same command to go on.")
        if self.batches.images.is_cuda:  # steps are only queued so far: without this the epoch looks cheaper
            torch.cuda.synchronize(self.batches.images.device)
        progress.seconds += time.monotonic() - started
        return self._record(epoch)

    def _record(self, epoch: int) -> dict[str, Any]:
        n = len(self.batches.labels)
        sums = {k: float(v) / n for k, v in self.progress.sums.items()}
        terms = {k.removeprefix("term:"): v for k, v in sums.items() if k.startswith("term:")}
        return {
            "epoch": epoch + 1,
            "loss": sum(terms.values()),
            "terms": terms,
            "train_accuracy": None if math.isnan(sums["correct"]) else sums["correct"],
            "holdout_accuracy": _accuracy(self.model, self.job.holdout, self.batches.images.device),
            "lr": learning_rate(self.job.recipe, self.progress.step - 1, self.batches.per_epoch),
            "seconds": self.progress.seconds,
            **(layer_statistics(self.model) if _finite(self.model) else {}),
        }


def bound_loss(
    loss: LossFunction | None, hyperparameters: dict[str, Any]
) -> Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]:
    """Return a recipe's loss with the hyper-parameters that its signature names; mean cross-entropy for None."""
    if loss is None:
        return lambda model, x, y: {"cross_entropy": nn.functional.cross_entropy(model(x), y)}
    names = inspect.signature(loss).parameters
    arguments = {k: v for k, v in hyperparameters.items() if k in names}
    return lambda model, x, y: loss(model, x, y, **arguments)


def set_epoch(model: nn.Module, epoch: int) -> bool:
    """Tell every part of the model that wants to know (`set_epoch(epoch)`) which epoch begins, counted from 0.

    Returns:
        Whether a number may have changed that a recorded or compiled step holds: False only if every part that was
        told answered False.
    """
    listeners = [tell for module in model.modules() if callable(tell := getattr(module, "set_epoch", None))]
    answers = [tell(epoch) for tell in listeners]
    return any(answer is not False for answer in answers)


def finalize(model: nn.Module) -> None:
    """Let every layer that wants it finish its own estimates (`finalize()`), and go to eval mode."""
    model.eval()
    for module in list(model.modules()):
        finish = getattr(module, "finalize", None)
        if callable(finish):
            finish()


def _accuracy(model: nn.Module, split: Split | None, device: torch.device) -> float | None:
    """Return the accuracy on held-out images in eval mode; None without any."""
    if split is None or len(split.labels) == 0:
        return None
    model.eval()
    correct = 0
    with torch.no_grad():
        for start in range(0, len(split.labels), 500):
            x = to_unit(torch.tensor(split.images[start : start + 500]).to(device))
            y = torch.tensor(split.labels[start : start + 500]).to(device)
            correct += int((model(x).argmax(1) == y).sum())
    return correct / len(split.labels)


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(v).all()) for v in model.state_dict().values() if v.is_floating_point())


def _divergence(
    job: TrainJob, epoch: int, record: dict[str, Any], good: dict[str, Tensor], checkpoint: Path | None
) -> str:
    """Save the last good weights and say what happened where."""
    kept = "none: it diverged in the first epoch"
    if good and checkpoint:
        from safetensors.torch import save

        target = checkpoint.with_suffix(".last-good.safetensors")
        files.write_bytes(target, save(good))
        kept = f"epoch {epoch}, {target.parent.name}/{target.name}"
    terms = ", ".join(f"{k} {v:g}" for k, v in record["terms"].items())
    return (
        f"training {job.defense.name} seed {job.seed}: expected finite losses and weights, got {terms} in epoch "
        f"{epoch + 1}. Lower the learning rate or the penalties; last good weights: {kept}."
    )
