"""Which rows of earlier commands stand beside those of a new plan."""

from __future__ import annotations

from bench.running.describe import plan_record
from bench.running.plan import Plan
from bench.running.planned import Companion
from bench.store.board_plan import BoardPlan
from bench.store.plan_record import RunRecord
from bench.store.store import Store


def with_companions(plan: Plan, store: Store) -> Plan:
    """Return a plan with the rows of earlier commands that will stand on its board, so that it can read their results.

    Args:
        plan: as `prepare` returns it.
        store: of the result folder.

    Raises:
        IntegrityError: a record is damaged.
    """
    found = _companions(store.plans.joined(0, plan_record(plan)), store)
    if not found:
        return plan
    whole = plan.beside(found)  # it may have evaluations that a row alone has not, which rows may differ in
    return whole.beside(_companions(store.plans.joined(0, plan_record(whole)), store))


def _companions(board: BoardPlan, store: Store) -> tuple[Companion, ...]:
    others = (run for run in board.plan.rows if (run.defense, run.seed) not in board.own)
    return tuple(Companion(run.defense, run.seed, _readable(run, store)) for run in others)


def _readable(run: RunRecord, store: Store) -> dict[str, str]:
    """Return the finished evaluations of a run, without those whose images were left out of a pack."""
    records = {key: store.cell(cell) for key, cell in run.evaluations.items()}
    done = {key: record.id for key, record in records.items() if record is not None and record.status == "done"}
    return {key: cell for key, cell in done.items() if not store.lacks_images(cell)}
