"""Try models that were handed over before a row is planned for them: what is refused leaves nothing in the folder."""

from __future__ import annotations

import contextlib

from bench.core.errors import IntegrityError, StoreError, UsageError
from bench.measuring.model_contract import DOOR_IMAGES
from bench.running.child import ChildError
from bench.running.computers import Computers
from bench.running.plan import Plan
from bench.running.planned import Run
from bench.running.prepare import Options
from bench.running.stopping import StopRequest
from bench.running.tasks import Event, TakeOverTask
from bench.store.database import NAME
from bench.store.store import Store


def try_models(plan: Plan, options: Options, stop: StopRequest) -> None:
    """Take over, without storing anything, each model of a plan that was handed over and is not stored yet.

    Args:
        plan: of the command.
        options: of the command.
        stop: asked whether to stop.

    Raises:
        UsageError: a factory or its network fails, ends the process or does not come back, the weights are not the
            network's, or it breaks the model contract.
        IntegrityError: a file of weights is damaged, or has changed since it was hashed.
        SecurityError: a file of weights holds objects that only code in it restores.
        OutOfMemoryError: a network does not fit into memory.
        Stopped: it was asked to stop.
    """
    runs = [run for run in plan.runs if run.handed_over]
    if not runs or not (left := _not_stored(plan, runs)):
        return
    with Computers(options.hang_limit, _unsaid) as computers:
        for run in left:
            if run.defect:
                raise UsageError(run.defect)
            try:
                computers.compute(take_over_task(run, plan), _not_kept, stop)
            except ChildError as error:
                raise UsageError(f"{run.label}: {error}") from error


def take_over_task(run: Run, plan: Plan, cell: str = "") -> TakeOverTask:
    """Return the task of taking a run's model over.

    Args:
        run: of a model that was handed over.
        plan: of the command.
        cell: id of its cell; "": it is only tried.
    """
    return TakeOverTask(run.label, run.job, plan.device, plan.dataset.test.images[:DOOR_IMAGES], cell)


def _not_stored(plan: Plan, runs: list[Run]) -> list[Run]:
    if not (plan.out / NAME).is_file():
        return runs
    done = set[str]()
    # What is damaged there, the run itself says and computes anew.
    with contextlib.suppress(StoreError, IntegrityError), Store.open(plan.out) as store:
        done |= {cell.id for run in runs if (cell := store.cell(run.cell.id)) and cell.status == "done"}
    return [run for run in runs if run.cell.id not in done]


def _unsaid(line: str) -> None:
    """Drop a line of the child's output: it says it again when the model is taken over."""


def _not_kept(event: Event) -> None:
    """Drop a result: the model is taken over once its row is planned."""
