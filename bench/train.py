"""The only training loop: a defense's factory, loss and recipe in; a trained network and its log out.

Nothing in a step waits for the device: the loss terms are summed there and read once an epoch. Every random draw
comes from the cell's seed and the epoch, so that a resumed training is bit-equal to an uninterrupted one on the same
device.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench import files
from bench.batches import Batches, to_unit
from bench.data import Split
from bench.errors import BenchError, IntegrityError
from bench.models.layers import layer_statistics
from bench.records import Defense, Recipe
from bench.seeding import derive, seed_everything

CHECKPOINT_SECONDS = 60.0
WARM_UP = 0.25  # share of a one-cycle schedule that climbs


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
        recipe: the complete recipe (every field set but perhaps `loss`).
        backbone: name of the backbone, e.g. "resnet18".
        num_classes: K.
        shape: (C, H, W) of an image.
        seed: the training seed.
        train: the images to train on.
        holdout: images kept apart to measure on after each epoch; None: none.
    """

    defense: Defense
    hyperparameters: dict[str, Any]
    recipe: Recipe
    backbone: str
    num_classes: int
    shape: tuple[int, int, int]
    seed: int
    train: Split
    holdout: Split | None = None

    def build(self) -> nn.Module:
        """Return the untrained network, initialised from the seed alone."""
        seed_everything(derive("initialisation", self.seed))
        return self.defense.function(self.num_classes, self.shape, self.backbone, **self.hyperparameters)


@dataclass
class _Progress:
    """Where a training stands: what a checkpoint holds besides weights and optimiser."""

    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0


def train(
    job: TrainJob,
    device: torch.device,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Train a network and return it in eval mode, its layers finalised (spectral vectors converged and frozen).

    Args:
        job: what to train.
        device: where.
        checkpoint: file to resume from and to write to every minute; the caller removes it once the weights are
            stored. None: no checkpoints.
        on_epoch: called with the log record of each finished epoch.
        should_stop: asked after each step; when it says yes a checkpoint is written and `Stopped` raised.

    Raises:
        Diverged: a loss term is not finite; names the epoch and the last good weights.
        Stopped: `should_stop` said so.
        IntegrityError: the checkpoint does not fit or cannot be read.
    """
    model = job.build().to(device)
    optimizer = torch.optim.SGD(
        parameter_groups(model, float(job.recipe.weight_decay or 0.0)),
        lr=float(job.recipe.lr or 0.0),
        momentum=float(job.recipe.momentum or 0.0),
    )
    batches = Batches(job.train, job.recipe, job.seed, device)
    progress = _resume(checkpoint, model, optimizer, device) or _Progress()
    loop = _Loop(job, model, optimizer, batches, progress, checkpoint, should_stop)
    good: dict[str, Tensor] = {}
    with _precision(str(job.recipe.precision), device):
        for epoch in range(progress.step // batches.per_epoch, int(job.recipe.epochs or 0)):
            record = loop.epoch(epoch)
            if not all(math.isfinite(v) for v in record["terms"].values()) or not _finite(model):
                raise Diverged(_divergence(job, epoch, record, good, checkpoint))
            good = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            on_epoch(record)
    optimizer.zero_grad(set_to_none=True)
    finalize(model)
    return model.eval()


class _Loop:
    """One epoch after the other over the same model, optimiser and batches."""

    def __init__(
        self,
        job: TrainJob,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        progress: _Progress,
        checkpoint: Path | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.job, self.model, self.optimizer, self.batches = job, model, optimizer, batches
        self.progress, self.checkpoint, self.should_stop = progress, checkpoint, should_stop
        self.loss = bound_loss(job.recipe, job.hyperparameters)
        self.saved = time.monotonic()

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Run what is left of an epoch and return its log record."""
        progress, started = self.progress, time.monotonic()
        first = progress.step - epoch * self.batches.per_epoch
        if first == 0:
            seed_everything(derive("epoch", self.job.seed, epoch))
            progress.sums, progress.seconds = {}, 0.0
        self.model.train()
        announce(self.model, epoch)
        for x, y in self.batches.of_epoch(epoch, first):
            self._step(x, y)
            stop, now = self.should_stop(), time.monotonic()
            if self.checkpoint and (stop or now - self.saved > CHECKPOINT_SECONDS):
                progress.seconds += now - started
                started = self.saved = now
                _save(self.checkpoint, self.model, self.optimizer, progress)
            if stop:
                raise Stopped(f"training stopped after step {progress.step}; run the same command to go on.")
        progress.seconds += time.monotonic() - started
        return self._record(epoch)

    def _step(self, x: Tensor, y: Tensor) -> None:
        lr = learning_rate(self.job.recipe, self.progress.step, self.batches.per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with _first_logits(self.model) as seen:
            terms = self.loss(self.model, x, y)
        total = torch.stack([t.float() for t in terms.values()]).sum()
        total.backward()
        self.optimizer.step()
        # The accuracy is that of the step's first forward pass over the batch, in train mode.
        same = bool(seen) and len(seen[0]) == len(y)
        correct = (seen[0].argmax(1) == y).sum() if same else torch.tensor(math.nan, device=y.device)
        for name, value in {**{f"term:{k}": v.detach() * len(y) for k, v in terms.items()}, "correct": correct}.items():
            self.progress.sums[name] = self.progress.sums.get(name, 0.0) + value.to(torch.float64)
        self.progress.step += 1

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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return SGD's parameter groups: a module's `no_weight_decay` names its own parameters that are exempt."""
    exempt = {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if name in getattr(module, "no_weight_decay", ())
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def bound_loss(
    recipe: Recipe, hyperparameters: dict[str, Any]
) -> Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]:
    """Return the recipe's loss with the hyper-parameters that its signature names; cross-entropy if it has none."""
    if recipe.loss is None:
        return lambda model, x, y: {"cross_entropy": nn.functional.cross_entropy(model(x), y)}
    loss, names = recipe.loss, inspect.signature(recipe.loss).parameters
    arguments = {k: v for k, v in hyperparameters.items() if k in names}
    return lambda model, x, y: loss(model, x, y, **arguments)


def learning_rate(recipe: Recipe, step: int, per_epoch: int) -> float:
    """Return the learning rate of a step (counted from 0).

    "step": lr · decay^m after m milestones, at epochs int(milestone · epochs). "onecycle": linear from lr/25 to lr
    over the first quarter of the steps, then linear to 0.
    """
    lr, epochs = float(recipe.lr or 0.0), int(recipe.epochs or 1)
    if recipe.schedule == "step":
        passed = sum(step // per_epoch >= int(m * epochs) for m in recipe.milestones or ())
        return lr * float(recipe.decay or 1.0) ** passed
    at, peak, total = step + 0.5, WARM_UP * epochs * per_epoch, epochs * per_epoch
    return lr * (0.04 + 0.96 * at / peak) if at < peak else lr * max(0.0, (total - at) / (total - peak))


def announce(model: nn.Module, epoch: int) -> None:
    """Tell every part of the model that wants to know (`set_epoch(epoch)`) which epoch begins, counted from 0."""
    for module in model.modules():
        tell = getattr(module, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def finalize(model: nn.Module) -> None:
    """Let every layer that wants it finish its own estimates (`finalize()`), and go to eval mode."""
    model.eval()
    for module in list(model.modules()):
        finish = getattr(module, "finalize", None)
        if callable(finish):
            finish()


@contextlib.contextmanager
def _first_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Catch the output of the model's first forward pass inside the block."""
    seen: list[Tensor] = []

    def catch(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if not seen:
            seen.append(output.detach())

    handle = model.register_forward_hook(catch)
    try:
        yield seen
    finally:
        handle.remove()


@contextlib.contextmanager
def _precision(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in the recipe's precision on a GPU; a CPU always computes in float32."""
    if device.type != "cuda":
        yield
        return
    old = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = old


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


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: _Progress) -> None:
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


def _resume(
    path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> _Progress | None:
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
        return _Progress(int(state["step"]), dict(state["sums"]), float(state["seconds"]))
    except Exception as error:
        raise IntegrityError(
            f"{path}: expected a training checkpoint of this cell, got {type(error).__name__}: {error}. "
            "Delete the file to train from the start."
        ) from error
