"""Compute a cell without a store: a task in, events out, in whichever process. `jobs` stores what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from bench.core import ticks
from bench.core.computing_time import Stopwatch
from bench.core.errors import Stopped
from bench.core.torch_state import known_state
from bench.core.user_code import origin_of
from bench.data.pixels import to_unit
from bench.measuring.adversarial_images import PREDICTION_BATCH, predictions
from bench.measuring.memory import out_of_memory_detected
from bench.measuring.model_contract import check_model, checked_eval
from bench.measuring.passes import after_forward
from bench.measuring.runner import evaluate_chunks
from bench.measuring.witness import Witness
from bench.running import torchrun
from bench.running.pace import Pace
from bench.running.precision_gate import check_precision
from bench.running.probe import check_probe, check_restorable, check_untrained, probe
from bench.running.take_over import take_over
from bench.running.tasks import (
    Emit,
    EvaluationTask,
    Event,
    Measured,
    Note,
    Stop,
    TakeOverTask,
    Task,
    Trained,
    TrainTask,
)
from bench.store.packed_chunk import pack_chunk
from bench.store.weights import load_weights, pack_state
from bench.training.flops import FEW, count_flops
from bench.training.loop import TrainJob, train
from bench.training.losses import bound_loss


class Computer:
    """Computes tasks in this process; the network of the last evaluation is kept for the next one of the same run."""

    def __init__(self) -> None:
        self._loaded: tuple[str, str] | None = None
        self._model: nn.Module | None = None
        self._witness: Witness | None = None  # of a third party's network, made before its first question

    @known_state()
    def compute(self, task: Task, emit: Emit, stop: Stop) -> None:
        """Compute a task.

        Args:
            task: what is computed.
            emit: called with each result, in order.
            stop: asked whether to stop.

        Raises:
            Stopped: it was asked to; every event so far is a whole result, and a training has written a checkpoint.
            BenchError: it cannot be computed.
        """
        if isinstance(task, TrainTask):
            _train(task, emit, stop)
        elif isinstance(task, TakeOverTask):
            take_over(task, emit)
        else:
            self._evaluate(task, emit, stop)

    def _evaluate(self, task: EvaluationTask, emit: Emit, stop: Stop) -> None:
        """Evaluate a model chunk by chunk; chunks that are stored already are left out.

        Raises:
            Stopped: it was asked to.
        """
        model, device = self._network(task), task.device
        left = -(-len(task.split) // task.evaluation.chunk) - len(task.done)
        pace = Pace(emit)
        with _stopped_within(model, stop, pace), ticks.heard(pace.tick):
            for chunk in evaluate_chunks(
                task.evaluation,
                model,
                task.split,
                device,
                arguments=task.arguments,
                seed=task.seed,
                adaptive=task.job.defense.adaptive,
                inputs=replace(task.inputs, witness=self._witness) if task.inputs else None,
                batch_size=task.batch_size,
                done=task.done,
                keep_images=task.keeps,
                index=task.index,
            ):
                images = chunk.images
                if images:
                    size = min(PREDICTION_BATCH, chunk.fitted or PREDICTION_BATCH)
                    images = {**images, "prediction": predictions(model, images["adversarial"], device, size)}
                emit(pack_chunk(chunk.number, chunk.table, images, chunk.info, chunk.columns, cell=task.cell))
                pace.begin()
                left -= 1
                if stop() and left:
                    raise Stopped("stopped between two chunks; run the same command to go on.")
        if task.evaluation.summary is None:
            emit(Measured())
            return
        watch = Stopwatch(device)
        with checked_eval(model):
            summary = dict(task.evaluation.summary(model, device))
        emit(Measured(summary, watch.read().as_data()))

    def _network(self, task: EvaluationTask) -> nn.Module:
        """Return a run's network with its weights: the function that was trained.

        Raises:
            IntegrityError: the weights are missing, or not the ones that were stored, or the network gives other
                logits than the one that was trained.
            UsageError: the network breaks the model contract.
        """
        if self._model is None or self._loaded != (task.label, task.sha256):
            self._model = None
            if self._witness is not None:
                self._witness.close()
            model = load_weights(task.job.build(), task.weights, task.sha256).to(task.device)
            theirs = origin_of(task.job.defense.function) is not None
            self._witness = Witness.start(model) if theirs and task.device.type == "cpu" else None
            check_model(model, to_unit(torch.tensor(task.door)).to(task.device), task.job.num_classes)
            check_probe(model, task.job.shape, task.device, task.probe, task.label)
            self._loaded, self._model = (task.label, task.sha256), model
        return self._model


@contextlib.contextmanager
def _stopped_within(model: nn.Module, stop: Stop, pace: Pace) -> Iterator[None]:
    """Leave the block after a pass through the model where work has to stop at once; else count the pass."""

    def look(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if stop.at_once():
            raise Stopped("stopped within a chunk, which is computed again; run the same command to go on.")
        pace.passed(output)

    handle = after_forward(model, look)
    try:
        yield
    finally:
        handle.remove()


def _train(task: TrainTask, emit: Emit, stop: Stop) -> None:
    """Train a network; the last event holds its weights and what is stored of them."""
    job, device = task.job, task.device
    pace = Pace(emit, -(-len(job.train) // job.recipe.batch_size))

    def take(event: Event) -> None:
        pace.begin()
        emit(event)

    def after_step() -> bool:
        pace.step()
        return stop()

    group = torchrun.group_for(task)
    with out_of_memory_detected(f"training {task.label}"):
        check_untrained(job, device)
        flops = _flops(job)
        gate = {"precision_gate": check_precision(job, device)} if task.gated else {}
        with torchrun.together(task, group):
            model = train(
                job,
                device,
                checkpoint=task.checkpoint,
                on_epoch=take,
                after_first_epoch=lambda model: check_restorable(model, job, device),
                should_stop=after_step,
                execution=task.execution,
                log=lambda text: emit(Note(f"  {task.label}: {text}")),
                group=group,
            )
        check_restorable(model, job, device)
    unlike_elsewhere = job.defense.randomised and device.type != "cpu"  # generators of other devices draw otherwise
    info = {
        "probe": None if unlike_elsewhere else probe(model, job.shape, device),
        **({"randomised": True} if job.defense.randomised else {}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": device.type,
        "threads": torch.get_num_threads(),
        **({} if group is None else {"processes": group.size}),
        "images": len(job.train) * job.recipe.epochs,
        **flops,
        **gate,
    }
    emit(Trained(pack_state(model), info))


def _flops(job: TrainJob) -> dict[str, float | str]:
    """Return what a step of a training computes, before it begins: `train` seeds everything anew."""
    images, labels = job.train.images[: max(FEW)], job.train.labels[: max(FEW)]
    count = count_flops(
        job.build,
        bound_loss(job.recipe.loss, job.hyperparameters),
        to_unit(torch.tensor(images)),
        torch.tensor(labels),
        batch_size=job.recipe.batch_size,
        epochs=job.recipe.epochs,
    )
    return count.as_data()
