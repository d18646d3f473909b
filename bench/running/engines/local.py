"""Where cells run: here. Every cell is claimed, computed, stored, given back; a failure leaves the others alone.

Several processes may work on one folder: each takes what nobody holds. A remote engine would replace `run_cells`
and nothing else.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.core import files, hashing
from bench.core.errors import BenchError, IntegrityError, LockedError, MachineError, SecurityError, StoreError
from bench.core.records import Adaptive, expand_columns
from bench.data.pixels import to_unit
from bench.measuring.model_contract import as_found, check_model
from bench.measuring.runner import evaluate_chunks, predictions
from bench.running import transfer
from bench.running.plan import Plan, PlannedEvaluation, Run
from bench.running.progress import Reporter
from bench.running.stopping import StopRequest
from bench.store import serialise
from bench.store.compact import LEFT_OUT
from bench.store.records import Lease, LeaseLost
from bench.store.store import Store
from bench.store.weights import load_weights, weights_path
from bench.training.loop import Stopped, train

HEARTBEAT_SECONDS = 30.0
_FATAL = (MachineError, IntegrityError, SecurityError, StoreError)


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        computed: cells computed by this process.
        failures: row or evaluation to cause.
    """

    computed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class RunContext:
    """What every cell needs: where results go, who is told, and when to stop; a worker has no plan of its own.

    `whole_trainings` gives a training up as soon as its epochs show that it cannot end in time: for folders of
    which no checkpoint outlives the time limit.
    """

    plan: Plan
    plan_id: int | None
    store: Store
    reporter: Reporter
    stop: StopRequest
    batch_size: int | None = None
    no_wait: bool = False
    debug: bool = False
    whole_trainings: bool = False
    outcome: Outcome = field(default_factory=Outcome)


class _Busy(Exception):
    """Another process works on the cell."""


def run_cells(context: RunContext) -> Outcome:
    """Compute every cell of the plan that is not stored, waiting for those that others compute.

    Raises:
        Stopped: the run was asked to stop.
        LockedError: `no_wait`, and another process holds a cell.
        MachineError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    waiting = list(enumerate(context.plan.rows))
    while waiting:
        held = []
        for number, row in waiting:
            if not _run_row(context, number, row):
                held.append((number, row))
        if len(held) == len(waiting) and context.no_wait:
            raise LockedError(
                f"{context.plan.out}: expected free cells, got cells that another run works on "
                f"({_holders(context, held)}). Wait for it, or run without --no-wait."
            )
        if held:
            time.sleep(0.5)
        waiting = held
    _transfer(context)
    return context.outcome


def _transfer(context: RunContext) -> None:
    """Try every model on the adversarial examples of the others, now that they are all there."""
    for target in transfer.targets(context.plan, context.store):
        _raise_if_stopped(context)
        cell, name = transfer.cell_of(context.plan, target), f"{target.row.label}: {transfer.KEY}"
        if context.plan_id is not None:
            context.store.bind(context.plan_id, target.number, transfer.KEY, cell.id)
        record = context.store.cell(cell.id)
        missing = transfer.left_out(context.plan, context.store, target)
        if missing and (record is None or record.status != "done"):
            context.reporter.say(f"  {name}: not done, {missing} were left out when the results were packed")
            continue
        while (lease := context.store.claim(cell.id, "evaluation", {**cell.spec, "name": name})) is None:
            record = context.store.cell(cell.id)
            if record is None or record.status != "running":
                break  # done, here or elsewhere
            _raise_if_stopped(context)
            time.sleep(0.2)
        if lease is not None:
            with contextlib.suppress(_Busy), _leased(context, lease, name):
                model = _load(context, target.row, target.weights)
                table, info = transfer.evaluate(context.plan, context.store, target, model)
                arguments = {"eps": [context.plan.suite.primary_eps]}
                columns = expand_columns(transfer.declared_columns(context.plan), arguments, table.columns)
                context.store.put_chunk(lease, 0, table, None, info, columns)
                context.store.finish(lease, info)
                context.outcome.computed += 1
                context.reporter.done(name, float(info["seconds"]))


def _holders(context: RunContext, rows: list[tuple[int, Run]]) -> str:
    return context.store.holder(rows[0][1].cell.id) or "one of its evaluations"


def _run_row(context: RunContext, number: int, row: Run) -> bool:
    """Train a row and run its evaluations; False if another process holds one of them."""
    _raise_if_stopped(context)
    if row.label in context.outcome.failures:
        return True
    try:
        weights = _trained(context, row)
    except _Busy:
        return False
    if weights is None:
        return True
    model: nn.Module | None = None
    complete = True
    for measurement in context.plan.measurements:
        _raise_if_stopped(context)
        cell = measurement.cell(weights, row)
        if context.plan_id is not None:
            context.store.bind(context.plan_id, number, measurement.entry.key, cell.id)
        record = context.store.cell(cell.id)
        name = f"{row.label}: {measurement.entry.key}"
        if (record and record.status == "done") or name in context.outcome.failures:
            continue
        lease = context.store.claim(cell.id, "evaluation", {**cell.spec, "name": name})
        if lease is None:
            complete = False
            continue
        try:
            with _leased(context, lease, name):
                model = model or _load(context, row, weights)
                _evaluate(context, lease, name, model, measurement, weights, row.job.defense.adaptive)
        except _Busy:
            complete = False
    return complete


def _raise_if_stopped(context: RunContext) -> None:
    if context.stop():
        raise Stopped("stopped; everything finished so far is stored. Run the same command to go on.")


def bind_known(plan: Plan, number: int, store: Store) -> None:
    """Bind every row whose weights are known to its evaluations' cells, so that the board shows what is stored."""
    found = []
    for place, row in enumerate(plan.rows):
        record = store.cell(row.cell.id)
        if record and record.status == "done":
            weights = str(record.info["weights"])
            found += [(number, place, m.entry.key, m.cell(weights, row).id) for m in plan.measurements]
    for target in transfer.targets(plan, store):
        found.append((number, target.number, transfer.KEY, transfer.cell_of(plan, target).id))
    store.bind_all(found)


def _trained(context: RunContext, row: Run) -> str | None:
    """Return the SHA-256 of the row's weights, training them if need be; None if training failed."""
    store, out = context.store, context.plan.out
    record = store.cell(row.cell.id)
    if record and record.status == "done":
        weights = str(record.info["weights"])
        if weights_path(out, weights).is_file() or (record.info.get(LEFT_OUT) and _measured(context, row, weights)):
            return weights
        store.reopen(row.cell.id)
        context.reporter.say(f"  {row.label}: its weights are missing, training anew")
    lease = store.claim(row.cell.id, "train", {**row.cell.spec, "name": row.label})
    if lease is None:
        record = store.cell(row.cell.id)
        if record and record.status == "done":
            return str(record.info["weights"])
        raise _Busy
    with _leased(context, lease, row.label):
        return _train(context, lease, row)
    return None


def _measured(context: RunContext, row: Run, weights: str) -> bool:
    """Tell whether all evaluations of a row are done, so that its weights are not needed."""
    records = (context.store.cell(m.cell(weights, row).id) for m in context.plan.measurements)
    return all(record is not None and record.status == "done" for record in records)


def _train(context: RunContext, lease: Lease, row: Run) -> str:
    from safetensors.torch import save

    started = time.monotonic()
    context.reporter.cell(f"train {row.label}", row.job.recipe.epochs)

    def on_epoch(record: dict[str, Any]) -> None:
        context.store.put_epoch(lease, record)
        context.reporter.advance(f"loss {record['loss']:.3f}")
        left = row.job.recipe.epochs - record["epoch"]
        if context.whole_trainings and record["epoch"] > 1:  # the first epoch also compiles
            context.stop.unless_time_for(left * record["seconds"])

    checkpoint = context.plan.out / "checkpoints" / f"{row.cell.id}.pt"
    model = train(
        row.job, context.plan.device, checkpoint=checkpoint, on_epoch=on_epoch, should_stop=context.stop,
        execution=context.plan.execution, say=lambda text: context.reporter.say(f"  {row.label}: {text}"),
    )  # fmt: skip
    content = save({k: v.contiguous() for k, v in model.state_dict().items()})
    sha = hashing.sha256_of(content)
    files.write_bytes(weights_path(context.plan.out, sha), content)
    log = context.store.log(row.cell.id)
    info = {
        "weights": sha,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": sum(r["seconds"] for r in log),
        "device": context.plan.device.type,
    }
    context.store.finish(lease, info)
    checkpoint.unlink(missing_ok=True)
    context.outcome.computed += 1
    context.reporter.done(f"train {row.label}", time.monotonic() - started, _accuracy_note(log))
    return sha


def _accuracy_note(log: list[dict[str, object]]) -> str:
    value = log[-1]["train_accuracy"] if log else None
    return f"train accuracy {value:.1%}" if isinstance(value, float) else ""


def _load(context: RunContext, row: Run, weights: str) -> nn.Module:
    """Build a row's network and load its weights: the same bits that were saved."""
    model = load_weights(row.job.build(), weights_path(context.plan.out, weights), weights)
    model = model.to(context.plan.device)
    x = to_unit(torch.tensor(context.plan.dataset.test.images[:2])).to(context.plan.device)
    check_model(model, x, row.job.num_classes)
    return model


def _evaluate(
    context: RunContext,
    lease: Lease,
    name: str,
    model: nn.Module,
    measurement: PlannedEvaluation,
    weights: str,
    adaptive: Adaptive | None,
) -> None:
    started = time.monotonic()
    stored = context.store.chunk_info(lease.cell)
    n = len(measurement.split.labels)
    context.reporter.cell(name, -(-n // measurement.evaluation.chunk))
    chunks = evaluate_chunks(
        measurement.evaluation,
        model,
        measurement.split,
        context.plan.device,
        arguments=measurement.spec["arguments"],
        seed=measurement.entry.seed,
        adaptive=adaptive,
        batch_size=context.batch_size,
        done=tuple(stored),
        keep_images=measurement.keeps,
        index=measurement.index,
    )
    for chunk in chunks:
        images = chunk.images
        if images:
            images = {**images, "prediction": predictions(model, images["adversarial"], context.plan.device)}
        context.store.put_chunk(lease, chunk.number, chunk.table, images, chunk.info, chunk.columns)
        stored[chunk.number] = chunk.info
        context.reporter.advance()
        if context.stop() and len(stored) * measurement.evaluation.chunk < n:
            raise Stopped("stopped between two chunks; run the same command to go on.")
    totals: dict[str, object] = {
        k: sum(c[k] for c in stored.values()) for k in ("forwards", "backwards", "images", "seconds")
    }
    if measurement.evaluation.summary is not None:
        with as_found(model):
            totals |= measurement.evaluation.summary(model, context.plan.device)
    _export_pictures(context, lease, weights, measurement.entry.key)
    context.store.finish(lease, totals)
    context.outcome.computed += 1
    context.reporter.done(name, time.monotonic() - started)


def _export_pictures(context: RunContext, lease: Lease, weights: str, key: str) -> None:
    """Write the adversarial examples of the final verdicts beside the weights that they break."""
    pictures = context.store.images(lease.cell)
    if pictures:
        name = f"{weights}.{files.safe_name(key)}.{lease.cell[:8]}.adversarial.safetensors.z"
        files.write_bytes(context.plan.out / "weights" / name, serialise.pack_arrays(pictures))


@contextlib.contextmanager
def _leased(context: RunContext, lease: Lease, name: str) -> Iterator[None]:
    """Keep a lease alive while its cell is computed; store a failure, give the lease back on a stop."""
    beat = _Heartbeat(context.plan.out, lease)
    beat.start()
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        beat.stop()
        context.store.release(lease)
        raise
    except LeaseLost as error:
        context.reporter.say(f"  {name}: {error}")
        raise _Busy from error
    except _FATAL:
        beat.stop()
        with contextlib.suppress(BenchError):
            context.store.release(lease)
        raise
    except Exception as error:
        cause = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(LeaseLost):  # then another worker computes it
            context.store.fail(lease, cause)
        context.outcome.failures[name] = cause
        context.reporter.failed(name, cause)
        if context.debug:
            traceback.print_exc()
    finally:
        beat.stop()


class _Heartbeat(threading.Thread):
    """Says every half minute that the holder of a lease lives, over a connection of its own."""

    def __init__(self, out: Path, lease: Lease) -> None:
        super().__init__(daemon=True)
        self._out, self._lease, self._over = out, lease, threading.Event()

    def run(self) -> None:
        """Beat until told to stop, or until the lease is lost (which the worker finds out by itself)."""
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(BenchError), Store.open(self._out) as store:
                store.heartbeat(self._lease)

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self.is_alive():
            self.join()
