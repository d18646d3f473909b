"""Run one job: train a model or evaluate one, into a cell whose lease is held. Nothing here waits or chooses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bench.core import files
from bench.core.computing_time import Stopwatch
from bench.core.errors import Stopped
from bench.core.records import Role
from bench.core.torch_state import known_state
from bench.data.pixels import to_unit
from bench.measuring.adversarial_images import predictions
from bench.measuring.inputs import CellInputs, Values, column_values, image_values
from bench.measuring.model_contract import DOOR_IMAGES, check_model, checked_eval
from bench.measuring.runner import evaluate_chunks
from bench.running.context import RunContext
from bench.running.planned import PlannedEvaluation, Run
from bench.running.probe import check_probe, check_restorable, check_untrained, probe
from bench.running.schedule import CellIndex, Job
from bench.store import serialise
from bench.store.records import Lease
from bench.store.store import Store
from bench.store.weights import load_weights, save_weights, weights_path
from bench.training.epoch import EpochRecord
from bench.training.flops import FEW, count_flops
from bench.training.loop import train
from bench.training.losses import bound_loss

_COUNTS = ("forwards", "backwards", "images")
_TIMES = ("cpu_seconds", "thread_seconds", "wall_seconds", "device_seconds")


class LoadedModel:
    """The network of the run whose evaluations are computed now: it is loaded once for all of them."""

    def __init__(self) -> None:
        self._weights: tuple[Run, str] | None = None
        self._model: nn.Module | None = None

    def of(self, run: Run, weights: str, context: RunContext) -> nn.Module:
        """Return a run's network with its weights: the function that was trained.

        Args:
            run: the run.
            weights: SHA-256 of its weights.
            context: the run's surroundings.

        Raises:
            IntegrityError: the weights are missing, or not the ones that were stored, or the network gives other
                logits than the one that was trained.
            UsageError: the network breaks the model contract.
        """
        if self._model is None or self._weights != (run, weights):
            plan = context.plan
            model = load_weights(run.job.build(), weights_path(plan.out, weights), weights).to(plan.device)
            x = to_unit(torch.tensor(plan.dataset.test.images[:DOOR_IMAGES])).to(plan.device)
            check_model(model, x, run.job.num_classes)
            trained = context.store.cell(run.cell.id)
            stored = trained.info.get("probe") if trained else None
            check_probe(model, run.job.shape, plan.device, stored, run.label)
            self._weights, self._model = (run, weights), model
        return self._model


@known_state()
def run_job(job: Job, lease: Lease, context: RunContext, index: CellIndex, loaded: LoadedModel) -> None:
    """Compute a job's cell, store its result and mark the cell done.

    Args:
        job: what is computed.
        lease: the right to write its cell.
        context: the run's surroundings.
        index: where its inputs are.
        loaded: the network that the last evaluation used.

    Raises:
        Stopped: the run was asked to stop; what is finished of the cell is stored.
        LeaseLost: somebody else has taken the cell over.
        BenchError: it cannot be computed.
    """
    started = time.monotonic()
    if job.evaluation is None:
        note = _train(job.run, lease, context)
    else:
        weights = index.weights(job)
        assert weights is not None  # an evaluation has a cell only once its run is trained
        model = loaded.of(job.run, weights, context)
        inputs = _inputs(job, index, context.store)
        _evaluate(job, job.evaluation, lease, context, model=model, inputs=inputs, weights=weights)
        note = ""
    context.reporter.done(job.title, time.monotonic() - started, note)


def _train(run: Run, lease: Lease, context: RunContext) -> str:
    """Train a run's model, store its weights, and return a note on the training."""
    epochs = run.job.recipe.epochs
    context.reporter.cell(f"train {run.label}", epochs)

    def on_epoch(record: EpochRecord) -> None:
        context.store.put_epoch(lease, record.as_data())
        context.reporter.advance(f"loss {record.loss:.3f}")
        if context.options.whole_trainings and record.epoch > 1:  # the first epoch also compiles
            context.stop.unless_time_for((epochs - record.epoch) * record.time.wall)

    job, device = run.job, context.plan.device
    check_untrained(job, device)
    flops = _flops(run)
    checkpoint = context.plan.out / "checkpoints" / f"{lease.cell}.pt"
    model = train(
        job,
        device,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        after_first_epoch=lambda model: check_restorable(model, job, device),
        should_stop=context.stop,
        execution=context.plan.execution,
        log=lambda text: context.reporter.log(f"  {run.label}: {text}"),
    )
    check_restorable(model, job, device)
    log = context.store.log(lease.cell)
    info = {
        "weights": save_weights(model, context.plan.out),
        "probe": probe(model, job.shape, device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "images": len(job.train) * epochs,
        **_sums(log, _TIMES),
        **flops,
    }
    context.store.finish(lease, info)
    files.remove(checkpoint)
    accuracy = log[-1]["train_accuracy"] if log else None
    return f"train accuracy {accuracy:.1%}" if isinstance(accuracy, float) else ""


def _flops(run: Run) -> dict[str, float | str]:
    """Return what a step of a run's training computes, before it begins: `train` seeds everything anew."""
    job = run.job
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


def _sums(records: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the sums over records of the numbers of some names; names that no record has are left out."""
    return {name: sum(r.get(name, 0) for r in records) for name in names if any(name in r for r in records)}


def _evaluate(
    job: Job,
    planned: PlannedEvaluation,
    lease: Lease,
    context: RunContext,
    *,
    model: nn.Module,
    inputs: CellInputs | None,
    weights: str,
) -> None:
    """Evaluate a model chunk by chunk; chunks that are stored already stay."""
    store, device = context.store, context.plan.device
    stored = store.chunk_info(lease.cell)
    n, size = len(planned.split), planned.evaluation.chunk
    context.reporter.cell(job.name, -(-n // size))
    chunks = evaluate_chunks(
        planned.evaluation,
        model,
        planned.split,
        device,
        arguments=planned.spec["arguments"],
        seed=planned.entry.seed,
        adaptive=job.run.job.defense.adaptive,
        inputs=inputs,
        batch_size=context.options.batch_size,
        done=tuple(stored),
        keep_images=planned.keeps,
        index=planned.index,
    )
    for chunk in chunks:
        images = chunk.images
        if images:
            images = {**images, "prediction": predictions(model, images["adversarial"], device)}
        store.put_chunk(lease, chunk.number, chunk.table, images, chunk.info, chunk.columns)
        stored[chunk.number] = chunk.info
        context.reporter.advance()
        if context.stop() and len(stored) * size < n:
            raise Stopped("stopped between two chunks; run the same command to go on.")
    infos = list(stored.values())
    if planned.evaluation.summary is not None:
        watch = Stopwatch(device)
        with checked_eval(model):
            summary = planned.evaluation.summary(model, device)
        infos.append(watch.read().as_data())
    else:
        summary = {}
    totals = {**_sums(infos, (*_COUNTS, *_TIMES)), **summary}
    _export_images(store, lease, f"{weights}.{files.safe_name(planned.entry.key)}")
    store.finish(lease, totals)


def _export_images(store: Store, lease: Lease, stem: str) -> None:
    """Write the adversarial examples of the final verdicts beside the weights that they break."""
    images = store.images(lease.cell)
    if images:
        name = f"{stem}.{lease.cell[:8]}.adversarial.safetensors.z"
        files.write_bytes(store.out / "weights" / name, serialise.pack_arrays(images))


def _inputs(job: Job, index: CellIndex, store: Store) -> CellInputs | None:
    """Read what an evaluation needs of other cells, None if it needs nothing."""
    if job.evaluation is None or not job.evaluation.inputs:
        return None
    own: dict[Role, Values] = {}
    others: dict[Role, Mapping[str, Values]] = {}
    for needed in job.evaluation.inputs:
        role = needed.need.role
        if needed.need.of == "own":
            cell = index.cell(index.schedule.own_input(job, needed.evaluation))
            own[role] = _values(store, cell.id, role, needed.column) if cell else {}
        else:
            cells = index.other_cells(job, needed.evaluation)
            others[role] = {label: _values(store, cell_id, role, needed.column) for label, cell_id in cells.items()}
    return CellInputs(own, others)


def _values(store: Store, cell: str, role: Role, column: str) -> Values:
    """Return place in the data set to value or stored image, of one column of a cell."""
    return image_values(store.images(cell)) if role == "adversarial" else column_values(store.table(cell), column)
