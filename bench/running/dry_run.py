"""What a run would do: which cells are stored, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.running import transfer
from bench.running.plan import Plan
from bench.running.prepare import Options, prepare
from bench.store.store import Store


@dataclass(frozen=True)
class CellState:
    """One line of a dry run: a cell, whether it is stored, and if not, why not."""

    name: str
    cached: bool
    why: str = ""
    seconds: float | None = None


def cell_states(plan: Plan, store: Store | None) -> list[CellState]:
    """Say of every cell of a plan whether its result is stored; `store` is None where there is none yet."""
    states = []
    for row in plan.rows:
        record = store.cell(row.cell.id) if store else None
        weights = record.info["weights"] if record and record.status == "done" else None
        name = f"train {row.label}"
        states.append(_state(name, "train", row.cell.spec, weights is not None, store, row.label))
        for measurement in plan.measurements:
            name = f"{row.label}: {measurement.entry.key}"
            if weights is None:
                states.append(CellState(name, False, "its model is not trained yet", _seconds(store, name)))
                continue
            cell = measurement.cell(weights, row)
            found = store.cell(cell.id) if store else None
            done = found is not None and found.status == "done"
            states.append(_state(name, "evaluation", cell.spec, done, store, name))
    return states + _transfer_states(plan, store)


def _transfer_states(plan: Plan, store: Store | None) -> list[CellState]:
    """Say of every row's transfer whether it is stored: it waits for all attacks."""
    if transfer.measurement(plan) is None:
        return []
    ready = {t.row.label: t for t in transfer.targets(plan, store)} if store else {}
    states = []
    for row in plan.rows:
        name, target = f"{row.label}: {transfer.KEY}", ready.get(row.label)
        if target is None or store is None:
            states.append(CellState(name, False, "it waits for the attacks on all rows", _seconds(store, name)))
            continue
        cell = transfer.cell_of(plan, target)
        found = store.cell(cell.id)
        done = found is not None and found.status == "done"
        if not done and (missing := transfer.left_out(plan, store, target)):
            states.append(CellState(name, False, f"{missing} were left out when the results were packed"))
            continue
        states.append(_state(name, "evaluation", cell.spec, done, store, name))
    return states


def _state(name: str, kind: str, spec: dict[str, Any], done: bool, store: Store | None, stored_name: str) -> CellState:
    from bench.running.cells import difference

    if done or store is None:
        return CellState(name, done, "" if done else "nothing is stored yet")
    same = [c for c in store.cells(kind) if c.spec.get("name") == stored_name]
    if not same:
        return CellState(name, False, "never run")
    last = same[-1]
    changes = difference({k: v for k, v in last.spec.items() if k != "name"}, spec)
    unfinished = {"failed": f"failed: {last.error}", "running": "in progress", "pending": "unfinished"}
    why = "; ".join(changes) if changes else unfinished.get(last.status, last.status)
    return CellState(name, False, why, last.seconds)


def _seconds(store: Store | None, name: str) -> float | None:
    """Return how long a cell of that name took last time."""
    if store is None:
        return None
    times = [c.seconds for c in store.cells("evaluation") if c.spec.get("name") == name and c.seconds]
    return times[-1] if times else None


def dry_run(options: Options) -> tuple[Plan, list[CellState]]:
    """Plan without doing anything; a store is read if there is one, none is made."""
    plan = prepare(options)
    if not (plan.out / "bench.db").is_file():
        return plan, cell_states(plan, None)
    with Store.open(plan.out) as store:
        return plan, cell_states(plan, store)
