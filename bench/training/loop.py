"""The only training loop: a defense's factory, loss and recipe in; a trained network and its log out.

Nothing in a step waits for the device: the loss terms are summed there and read once an epoch. Every random draw
comes from the cell's seed and the epoch, so that a resumed training is bit-equal to an uninterrupted one: on a CPU with
the same number of threads, since another number takes sums in another order; on a GPU if it is deterministic
(`ExecutionConfig`), else up to the rounding of sums whose order changes from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core import channels_last, files
from bench.core.computing_time import Stopwatch
from bench.core.errors import BenchError, IntegrityError
from bench.core.recipe import TrainingRecipe
from bench.core.records import Defense
from bench.core.seeding import preserved_generators
from bench.data.split import Split
from bench.training.batches import Batches
from bench.training.build import build_network
from bench.training.checkpoint import Checkpointer, CheckpointFile, TrainState, load_checkpoint
from bench.training.epoch import EpochRecord, nonfinite, parameter_names, pause, train_epoch
from bench.training.execution import ExecutionConfig
from bench.training.gradients import Log
from bench.training.hooks import finalize, set_epoch
from bench.training.losses import bound_loss
from bench.training.make_step import make_step
from bench.training.optimization import parameter_groups
from bench.training.precision import autocast, memory_format, torch_settings
from bench.training.split.check import check_split
from bench.training.split.group import Group
from bench.training.split.share import check_equal, share_state
from bench.training.split.step import SplitStep
from bench.training.step import Step


class Diverged(BenchError):
    """The loss or a weight became NaN or infinite."""


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
    hyperparameters: dict[str, object]
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
        return build_network(
            self.defense,
            self.hyperparameters,
            num_classes=self.num_classes,
            shape=self.shape,
            backbone=self.backbone,
            seed=self.seed,
        )


def train(
    job: TrainJob,
    device: torch.device,
    *,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    after_first_epoch: Callable[[nn.Module], None] = lambda model: None,
    should_stop: Callable[[], bool] = lambda: False,
    execution: ExecutionConfig | None = None,
    log: Log = lambda text: None,
    group: Group | None = None,
) -> nn.Module:
    """Train a network.

    Args:
        job: what to train.
        device: where.
        checkpoint: file to resume from and to write to every minute, named after the training's cell; the caller
            removes it once the weights are stored. One that is damaged or another training's is set aside, with
            ".damaged" behind its name. None: no checkpoints.
        on_epoch: called with the log record of each finished epoch.
        after_first_epoch: called once, with the network after the first epoch of this call; it leaves the network
            and the generators as they are.
        should_stop: called after each step but the last of all; if it returns True, a checkpoint is written and
            `Stopped` raised. After an epoch's last step it is called once `on_epoch` has returned.
        execution: how: eagerly, as a CUDA graph, compiled; deterministically or not. None: the default.
        log: called, with one line, if a mode of execution is not available here, or a checkpoint is of no use.
        group: the processes over which each batch is split, all of which call this; the first one's checkpoint and
            `should_stop` count for all. None: this process alone.

    Returns:
        The network in eval mode, its layers finalised (spectral vectors converged and frozen).

    Raises:
        Diverged: a loss term is not finite; names the epoch and the last good weights.
        Stopped: `should_stop` returned True.
        MachineError: the checkpoint cannot be read or written.
        NotSplitError: the training cannot be split over the processes, see `check_split`.
        LostProcessError: one of them has ended, or has not answered in time.
    """
    execution, recipe = execution or ExecutionConfig(), job.recipe
    state, unused = _start(job, device)
    batches = Batches(job.train, recipe, job.seed, device, _layout(job, state.model, device))
    file = _checkpoint_file(checkpoint, job, recipe.epochs * batches.per_epoch)
    if file is not None and (damage := _resume(file, state, device)):
        log(f"{damage} It is set aside; training from the start.")
        state, unused = _start(job, device)
    model = state.model
    step = _step(job, state, device, execution, log) if group is None else _split(job, state, batches, execution, group)
    asked = should_stop if group is None else lambda: group.agreed(should_stop)
    checkpointer, good = Checkpointer(file), dict[str, Tensor]()
    with torch_settings(execution, recipe.precision, device):
        first = state.step // batches.per_epoch
        for epoch in range(first, recipe.epochs):
            record = train_epoch(
                state, step, batches, epoch, holdout=job.holdout, checkpointer=checkpointer, should_stop=asked
            )
            if group is not None:
                check_equal(state, f"training {job.defense.name} seed {job.seed}", group)
            bad = sorted(record.nonfinite - unused)
            if bad or not all(math.isfinite(v) for v in record.terms.values()):
                raise Diverged(_divergence(job, record, bad, good, checkpoint))
            good = {k: v.detach().clone() for k, v in model.state_dict().items()}  # they stay on the device
            on_epoch(record)
            if epoch == first:
                after_first_epoch(model)
            if epoch + 1 < recipe.epochs:
                pause(state, Stopwatch(device), checkpointer, asked)
    state.optimizer.zero_grad(set_to_none=True)
    model = model.to(memory_format=torch.contiguous_format)
    finalize(model)
    return model.eval()


def _step(job: TrainJob, state: TrainState, device: torch.device, execution: ExecutionConfig, log: Log) -> Step:
    """Return the step of a training in one process."""
    return make_step(
        execution.step_mode(device),
        state.model,
        state.optimizer,
        bound_loss(job.recipe.loss, job.hyperparameters),
        state.sums,
        autocast=lambda: autocast(job.recipe.precision, device),
        size=job.recipe.batch_size,
        log=log,
    )


def _split(job: TrainJob, state: TrainState, batches: Batches, execution: ExecutionConfig, group: Group) -> Step:
    """Return the step of a training over several processes, which is tried first; all get the first one's state.

    Raises:
        NotSplitError: the training cannot be split.
    """
    device, loss, recipe = group.device, bound_loss(job.recipe.loss, job.hyperparameters), job.recipe

    def build() -> nn.Module:
        model = job.build().to(device).to(memory_format=batches.layout).train()
        set_epoch(model, 0)
        return model

    def cast() -> torch.autocast:
        return autocast(recipe.precision, device)

    with preserved_generators(), torch_settings(execution, recipe.precision, device):
        check_split(
            f"training {job.defense.name} seed {job.seed}",
            build,
            loss,
            cast,
            next(batches.of_epoch(0, 0)),
            group,
            smallest=batches.smallest,
            rounded=recipe.precision != "fp32",
        )
    share_state(state, group)
    return SplitStep(state.model, state.optimizer, loss, state.sums, autocast=cast, group=group)


def _layout(job: TrainJob, model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory layout that a network is trained in."""
    layout = memory_format((job.shape[1], job.shape[2]), job.recipe.precision, device)
    return layout if device.type != "cpu" or channels_last.is_safe(model) else torch.contiguous_format


def _start(job: TrainJob, device: torch.device) -> tuple[TrainState, frozenset[str]]:
    """Return the state before the first step, and the network's buffers that are not finite, which no layer uses."""
    model = job.build().to(device)
    unused = _check_start(job, model)
    model = model.to(memory_format=_layout(job, model, device))
    groups = parameter_groups(model, job.recipe.weight_decay)
    lr, momentum = job.recipe.lr, job.recipe.momentum
    return TrainState(model, torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)), unused


def _resume(file: CheckpointFile, state: TrainState, device: torch.device) -> str:
    """Restore a training's state from its checkpoint, if there is one.

    Returns:
        Why the file, which is set aside then, is of no use; "" if nothing speaks against it. The state may have been
        overwritten in part.
    """
    try:
        load_checkpoint(file, state, device)
    except IntegrityError as error:
        files.set_aside(file.path)
        return str(error)
    return ""


def _checkpoint_file(path: Path | None, job: TrainJob, steps: int) -> CheckpointFile | None:
    """Return a training's checkpoint file; it is named after the training's cell."""
    return None if path is None else CheckpointFile(path, f"{path.stem} {job.defense.name} seed {job.seed}", steps)


def _check_start(job: TrainJob, model: nn.Module) -> frozenset[str]:
    """Refuse an untrained network with a NaN weight; return its buffers that are not finite, which no layer uses."""
    found = nonfinite(model)
    if weights := sorted(found & parameter_names(model)):
        raise BenchError(
            f"training {job.defense.name} seed {job.seed}: expected finite weights before the first step, got NaN or "
            f"infinity in {', '.join(weights[:3])}. Fix the factory's initialisation."
        )
    return found


def _divergence(
    job: TrainJob, record: EpochRecord, bad: Sequence[str], good: Mapping[str, Tensor], checkpoint: Path | None
) -> str:
    """Save the last good weights and return the message that names them."""
    kept = "none: it diverged in the first epoch"
    if good and checkpoint:
        from safetensors.torch import save

        target = checkpoint.with_suffix(".last-good.safetensors")
        files.write_bytes(target, save({k: v.cpu() for k, v in good.items()}))
        kept = f"epoch {record.epoch - 1}, {target.parent.name}/{target.name}"
    terms = ", ".join(f"{k} {v:g}" for k, v in record.terms.items())
    terms += f" and NaN or infinity in {', '.join(bad[:3])}" if bad else ""
    return (
        f"training {job.defense.name} seed {job.seed}: expected finite losses and weights, got {terms} in epoch "
        f"{record.epoch}. Lower the learning rate or the penalties; last good weights: {kept}."
    )
