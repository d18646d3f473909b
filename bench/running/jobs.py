"""Run one job: have its cell computed and store what comes of it, under a lease. Nothing here waits or chooses."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench.core import files
from bench.core.errors import BenchError
from bench.core.records import REFERENCE_RANK, Role
from bench.measuring.inputs import CellInputs, Values, column_values, image_values
from bench.measuring.model_contract import DOOR_IMAGES
from bench.measuring.runner import FITTED
from bench.running.cell_index import CellIndex
from bench.running.context import RunContext
from bench.running.planned import PlannedEvaluation, Run
from bench.running.progress.costs import forwards
from bench.running.schedule import Job
from bench.running.tasks import (
    Advance,
    Computes,
    EvaluationTask,
    Event,
    Measured,
    Note,
    Trained,
    TrainTask,
    without_images,
)
from bench.running.trial import take_over_task
from bench.store import serialise
from bench.store.packed_chunk import PackedChunk
from bench.store.records import CellRecord, Lease
from bench.store.store import Store
from bench.store.weights import save_weights, weights_path
from bench.training.epoch import EpochRecord

_COUNTS = ("forwards", "backwards", "images")
_TIMES = ("cpu_seconds", "thread_seconds", "wall_seconds", "device_seconds")
_PROGRAMS = "device_programs"


def run_job(job: Job, lease: Lease, context: RunContext, index: CellIndex, computers: Computes) -> None:
    """Compute a job's cell, store its result and mark the cell done.

    Args:
        job: what is computed.
        lease: the right to write its cell.
        context: the run's surroundings.
        index: where its inputs are.
        computers: what has tasks computed.

    Raises:
        Stopped: the run was asked to stop; what is finished of the cell is stored.
        LeaseLost: somebody else has taken the cell over.
        BenchError: it cannot be computed.
    """
    started = time.monotonic()
    if job.evaluation is None and job.run.handed_over:
        note = _take_over(job.run, lease, context, computers)
    elif job.evaluation is None:
        note = _train(job.run, lease, context, computers)
    else:
        task = _evaluation_task(job, job.evaluation, lease, context, index)
        _evaluate(job, job.evaluation, task, lease, context, computers)
        note = ""
    context.reporter.done(job.title, time.monotonic() - started, note)


def _train(run: Run, lease: Lease, context: RunContext, computers: Computes) -> str:
    """Train a run's model and store its weights.

    Returns:
        A note on the training.

    Raises:
        BenchError: its network cannot even be built; or it cannot be trained.
    """
    if run.defect:
        raise BenchError(run.defect)
    epochs = run.job.recipe.epochs
    context.reporter.cell(f"train {run.label}", epochs, done=len(context.store.log(lease.cell)))
    trained: list[Trained] = []

    def take(event: Event) -> None:
        if isinstance(event, Note):
            context.reporter.log(event.text)
        elif isinstance(event, Advance):
            context.reporter.progress(event.stage, event.done, event.of)
        elif isinstance(event, Trained):
            trained.append(event)
        elif isinstance(event, EpochRecord):
            context.store.put_epoch(lease, event.as_data())
            context.reporter.advance(f"loss {event.loss:.3f}")
            if context.options.whole_trainings and event.epoch > 1:  # the first epoch also compiles
                context.stop.unless_time_for((epochs - event.epoch) * event.time.wall)

    checkpoint = context.plan.out / "checkpoints" / f"{lease.cell}.pt"
    task = TrainTask(run.label, run.job, context.plan.device, context.plan.execution, checkpoint, run.gated)
    computers.compute(task, take, context.stop, apart=lease.abandoned)
    log = context.store.log(lease.cell)
    times = {**_sums(log, _TIMES), **_most(log, _PROGRAMS)}
    info = {"weights": save_weights(trained[-1].weights, context.plan.out), **trained[-1].info, **times}
    context.store.finish(lease, info)
    files.remove(checkpoint)
    accuracy = log[-1]["train_accuracy"] if log else None
    return f"train accuracy {accuracy:.1%}" if isinstance(accuracy, float) else ""


def _take_over(run: Run, lease: Lease, context: RunContext, computers: Computes) -> str:
    """Take over the weights of a model that was trained elsewhere, and store them.

    Returns:
        A note on where they come from.

    Raises:
        BenchError: its network cannot even be built; or its weights cannot be taken over.
    """
    if run.defect:
        raise BenchError(run.defect)
    context.reporter.cell(f"take over {run.label}", 1)
    taken: list[Trained] = []

    def take(event: Event) -> None:
        if isinstance(event, Trained):
            taken.append(event)

    computers.compute(take_over_task(run, context.plan, lease.cell), take, context.stop, apart=lease.abandoned)
    context.store.finish(lease, {"weights": save_weights(taken[-1].weights, context.plan.out), **taken[-1].info})
    given = taken[-1].info["handed_over"]
    return f"{given['weights']} (SHA-256 {given['sha256'][:12]})" if given["weights"] else f"from {given['factory']}"


def _sums(records: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the sums over records of the numbers of some names; names that no record has are left out."""
    return {name: sum(r.get(name, 0) for r in records) for name in names if any(name in r for r in records)}


def _most(records: Sequence[Mapping[str, int]], name: str) -> dict[str, int]:
    """Return the largest number of a name over records, nothing where no record has it."""
    found = [r[name] for r in records if name in r]
    return {name: max(found)} if found else {}


def _evaluation_task(
    job: Job, planned: PlannedEvaluation, lease: Lease, context: RunContext, index: CellIndex
) -> EvaluationTask:
    """Return the task of an evaluation, with what it reads of the store."""
    plan, run, trained = context.plan, job.run, index.trained(job)
    assert trained is not None  # an evaluation has a cell only once its run is trained
    return EvaluationTask(
        label=run.label,
        job=without_images(run.job),
        weights=weights_path(plan.out, trained.weights),
        sha256=trained.weights,
        probe=trained.info.get("probe"),
        door=plan.dataset.test.images[:DOOR_IMAGES],
        evaluation=planned.evaluation,
        arguments=planned.spec["arguments"],
        split=planned.split,
        index=planned.index,
        seed=planned.entry.seed,
        device=plan.device,
        inputs=_inputs(job, index, context.store),
        keep_images=planned.keep_images,
        batch_size=context.options.batch_size,
        done=tuple(context.store.chunk_info(lease.cell)),
        cell=lease.cell,
    )


def _evaluate(
    job: Job,
    planned: PlannedEvaluation,
    task: EvaluationTask,
    lease: Lease,
    context: RunContext,
    computers: Computes,
) -> None:
    """Evaluate a model chunk by chunk; chunks that are stored already stay.

    The last chunk is stored with the end of the cell where that follows at once: where neither images nor a summary are
    to be written in between.
    """
    chunks = -(-len(planned.split) // planned.evaluation.chunk)
    expected = forwards(job)
    context.reporter.cell(job.title, chunks, len(task.done), None if expected is None else expected / chunks)
    measured: list[Measured] = []
    last: list[PackedChunk] = []
    left = chunks - len(task.done)

    def take(event: Event) -> None:
        nonlocal left
        if isinstance(event, PackedChunk):
            left -= 1
            if not left and event.images is None and planned.evaluation.summary is None:
                last.append(event)
                return
            context.store.put_packed(lease, event)
            context.reporter.advance()
        elif isinstance(event, Advance):
            context.reporter.progress(event.stage, event.done, event.of, event.forwards)
        elif isinstance(event, Note):
            context.reporter.log(event.text)
        elif isinstance(event, Measured):
            measured.append(event)

    computers.compute(task, take, context.stop, apart=lease.abandoned)
    infos = [*context.store.chunk_info(lease.cell).values(), *(chunk.info for chunk in last), measured[-1].time]
    fitted = [info[FITTED] for info in infos if FITTED in info]
    times = {**_sums(infos, (*_COUNTS, *_TIMES)), **_most(infos, _PROGRAMS)}
    totals = {**times, **({FITTED: min(fitted)} if fitted else {}), **measured[-1].summary}
    _export_images(context.store, lease, f"{task.sha256}.{files.safe_name(planned.entry.key)}")
    context.store.finish(lease, totals, *last)
    for _ in last:
        context.reporter.advance()


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
    passes: float | None = None
    others: dict[Role, Mapping[str, Values]] = {}
    for needed in job.evaluation.inputs:
        role = needed.need.role
        if needed.need.of == "own":
            cell = index.cell(index.schedule.own_input(job, needed.evaluation))
            own[role] = _values(store, cell.id, role, needed.column) if cell else {}
            passes = _passes(store.cell(cell.id), needed.ranks) if cell and role == "robust" else passes
        else:
            cells = index.other_cells(job, needed.evaluation)
            others[role] = {label: _values(store, cell_id, role, needed.column) for label, cell_id in cells.items()}
    return CellInputs(own, others, passes)


def _passes(record: CellRecord | None, ranks: int) -> float | None:
    """Return how often the network was passed per image, forward and backward, by a reference attack; else None."""
    if record is None or ranks < REFERENCE_RANK or not record.info.get("images"):
        return None
    return float(record.info["forwards"] + record.info["backwards"]) / float(record.info["images"])


def _values(store: Store, cell: str, role: Role, column: str) -> Values:
    """Return place in the data set to value or stored image, of one column of a cell."""
    return image_values(store.images(cell)) if role == "adversarial" else column_values(store.table(cell), column)
