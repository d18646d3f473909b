"""What planning asks the store grows with the number of cells, not with its square; and what the index remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.running.cell_index import CellIndex
from bench.running.dry_run import cell_states
from bench.running.prepare import prepare
from bench.running.schedule import Schedule
from bench.store.store import Store
from benchmarks import scale


def _asked(rows: int, out: Path) -> tuple[int, int]:
    """Return how many statements SQLite carried out to plan so many rows, and how many cells they have."""
    plan, asked = prepare(scale.options(rows, out)), list[str]()
    scale.store_rows(plan)
    with Store.open(out) as store:
        store._database.connection.set_trace_callback(asked.append)
        CellIndex(Schedule(plan), store, still=True).bindings()
        states = cell_states(plan, store)
    return len(asked), len(states)


def test_planning_four_times_the_cells_asks_four_times_as_much(tmp_path: Path) -> None:
    (few, cells), (many, more) = _asked(6, tmp_path / "few"), _asked(24, tmp_path / "many")
    assert more == 4 * cells
    assert many <= 4.2 * few
    assert few <= 4 * cells


def test_a_finished_cell_is_remembered_until_its_training_is_opened_again(tmp_path: Path) -> None:
    plan = prepare(scale.options(2, tmp_path / "r"))
    scale.store_rows(plan)
    with Store.open(plan.out) as store:
        index = CellIndex(Schedule(plan), store)
        training, evaluation = index.schedule.row(0)[:2]
        before = index.cell_id(evaluation)
        assert before is not None
        store.leases.reopen(plan.runs[0].cell.id)
        assert index.cell_id(evaluation) == before
        index.reopened(training)
        assert index.cell_id(evaluation) is None
        assert index.weights(training) is None


@pytest.mark.parametrize("still", [True, False])
def test_what_is_not_finished_is_looked_up_again_unless_the_store_stays_as_it_is(tmp_path: Path, still: bool) -> None:
    plan = prepare(scale.options(2, tmp_path / "r"))
    with Store.open(plan.out, create=True) as store:
        index = CellIndex(Schedule(plan), store, still=still)
        training = index.schedule.row(0)[0]
        assert not index.is_done(training)
        lease = store.leases.claim(training.run.cell.id, "train", {**training.run.cell.spec, "name": training.name})
        assert lease is not None
        store.finish(lease, {"weights": "0" * 64})
        assert index.is_done(training) is not still
