"""Any order of starting, committing, killing, stalling, corrupting and filling the disk keeps the store's promises.

Workers are stores of this process; a killed or stalled one is given an owner that no longer exists, as another
process sees it.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.core.errors import MachineError
from bench.store.records import Lease, LeaseLost
from bench.store.store import Store
from tests.bench.store.folders import plan_of

CELLS = st.sampled_from(["x", "y"])
NUMBERS = st.integers(0, 2)


@dataclass
class Worker:
    """A process: its store, and the leases that it believes to hold."""

    store: Store
    leases: dict[str, Lease] = field(default_factory=dict)


def table(cell: str, number: int, rows: int = 3) -> pd.DataFrame:
    return pd.DataFrame({"index": np.arange(rows) + 10 * number, "value": float(number), "cell": cell})


class StoreMachine(RuleBasedStateMachine):
    """The store against a dictionary of what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.out = Path(tempfile.mkdtemp(prefix="bench-machine-"))
        self.workers: list[Worker] = []
        self.held: dict[str, tuple[Worker, Lease]] = {}  # by whom, as far as others can see
        self.stored: set[tuple[str, int]] = set()
        self.done: set[str] = set()
        self.generations: dict[str, int] = {}
        self.plans = 0

    @initialize()
    def first(self) -> None:
        self.start()
        self.start()

    @rule()
    @precondition(lambda self: len(self.workers) < 3)
    def start(self) -> None:
        """Start a process: also a second run on the same folder."""
        store = Store.open(self.out, create=True)
        store._database.connection.execute("PRAGMA synchronous=OFF")  # the machine does not lose power here
        self.workers.append(Worker(store))

    def worker(self, data: st.DataObject) -> Worker:
        return data.draw(st.sampled_from(self.workers))

    def holder(self, data: st.DataObject) -> tuple[Worker, str, Lease]:
        """Draw a lease that a worker believes to hold, rightly or not."""
        number = data.draw(st.integers(0, sum(len(w.leases) for w in self.workers) - 1))
        return [(w, cell, lease) for w in self.workers for cell, lease in w.leases.items()][number]

    def at_rest(self) -> list[tuple[str, int]]:
        """Return the stored chunks of cells that nobody computes."""
        return sorted((cell, number) for cell, number in self.stored if cell not in self.held)

    @rule(cell=CELLS, data=st.data())
    @precondition(lambda self: self.workers)
    def claim(self, cell: str, data: st.DataObject) -> None:
        """A cell is given to one living worker, never when it is done, under ever higher generations."""
        worker = self.worker(data)
        lease = worker.store.leases.claim(cell, "evaluation", {"cell": cell})
        assert (lease is None) == (cell in self.done or cell in self.held)
        if lease is not None:
            assert lease.generation > self.generations.get(cell, 0)
            self.generations[cell] = lease.generation
            worker.leases[cell] = lease
            self.held[cell] = worker, lease

    @rule(number=NUMBERS, data=st.data())
    @precondition(lambda self: any(w.leases for w in self.workers))
    def commit(self, number: int, data: st.DataObject) -> None:
        """What is committed is there; a worker whose cell was taken over commits nothing."""
        worker, cell, lease = self.holder(data)
        if self.generations[cell] != lease.generation or cell in self.done:
            with pytest.raises(LeaseLost):
                worker.store.put_chunk(lease, number, table(cell, number), None, {"images": 3})
            return
        worker.store.put_chunk(lease, number, table(cell, number), None, {"images": 3})
        self.stored.add((cell, number))

    @rule(data=st.data())
    @precondition(lambda self: any(w.leases for w in self.workers))
    def finish(self, data: st.DataObject) -> None:
        """A cell is finished by its holder alone."""
        worker, cell, lease = self.holder(data)
        del worker.leases[cell]
        if self.generations[cell] != lease.generation or cell in self.done:
            with pytest.raises(LeaseLost):
                worker.store.finish(lease, {"forwards": 1})
            return
        worker.store.finish(lease, {"forwards": 1})
        self.done.add(cell)
        self.held.pop(cell, None)

    @rule(data=st.data())
    @precondition(lambda self: self.workers)
    def kill(self, data: st.DataObject) -> None:
        """A killed worker's cells are free at once; what it was writing is not there."""
        worker = self.worker(data)
        with contextlib.suppress(sqlite3.Error):
            worker.store._database.connection.execute("BEGIN IMMEDIATE")
            worker.store._database.connection.execute("DELETE FROM chunks")
        worker.store.close()
        self.workers.remove(worker)
        self.orphan(worker)

    @rule(data=st.data())
    @precondition(lambda self: self.workers)
    def stall(self, data: st.DataObject) -> None:
        """A worker is taken for dead, and goes on later all the same."""
        self.orphan(self.worker(data))

    @rule(data=st.data(), number=NUMBERS)
    @precondition(lambda self: self.held and len(self.workers) > 1)
    def take_over(self, data: st.DataObject, number: int) -> None:
        """A stalled worker's cell goes to another; when it wakes up it commits nothing."""
        cell = data.draw(st.sampled_from(sorted(self.held)))
        stalled, lease = self.held[cell]
        self.orphan(stalled)
        other = next(w for w in self.workers if w is not stalled)
        taken = other.store.leases.claim(cell, "evaluation", {"cell": cell})
        assert taken is not None
        self.generations[cell] = taken.generation
        other.leases[cell] = taken
        self.held[cell] = other, taken
        with pytest.raises(LeaseLost):
            stalled.store.put_chunk(lease, number, table(cell, number + 50), None, {"images": 3})

    def orphan(self, worker: Worker) -> None:
        for cell in [cell for cell, (holder, _) in self.held.items() if holder is worker]:
            self.behind("UPDATE cells SET owner=json_set(owner, '$.start', 1.0) WHERE id=?", cell)
            del self.held[cell]

    @rule(data=st.data(), what=st.sampled_from(["data=zeroblob(20)", "info='{}'", "number=number+100"]))
    @precondition(lambda self: self.at_rest() and self.workers)
    def corrupt(self, data: st.DataObject, what: str) -> None:
        """One damaged chunk costs this chunk alone: its cell is computed again, unless somebody computes it now."""
        cell, number = data.draw(st.sampled_from(self.at_rest()))
        self.behind(f"UPDATE chunks SET {what} WHERE cell=? AND number=?", cell, number)
        found = self.worker(data).store.drop_damaged()
        assert len(found) == 1
        assert f"of cell {cell}" in found[0]
        self.stored.discard((cell, number))
        self.done.discard(cell)
        self.generations[cell] += 1

    @rule(number=NUMBERS, data=st.data())
    @precondition(lambda self: self.held)
    def fill_the_disk(self, number: int, data: st.DataObject) -> None:
        """What does not fit is refused whole; what was there stays."""
        cell = data.draw(st.sampled_from(sorted(self.held)))
        worker, lease = self.held[cell]
        db = worker.store._database.connection
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages}")
        noise = {"index": np.arange(1), "clean": np.random.default_rng(number).random((1, 1, 100, 100))}
        try:
            with pytest.raises(MachineError, match="database or disk is full"):
                worker.store.put_chunk(lease, number, table(cell, number), noise, {"images": 3})
        finally:
            db.execute("PRAGMA max_page_count=1073741823")

    @rule()
    @precondition(lambda self: self.workers)
    def plan(self) -> None:
        """The same command again adds no plan."""
        assert self.workers[0].store.plans.put(plan_of("a")) == 1
        self.plans = 1

    def behind(self, sql: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self.out / "bench.db", timeout=10)) as db, db:
            db.execute(sql, values)

    @invariant()
    def what_was_acknowledged_is_there(self) -> None:
        if not self.workers:
            return
        store = self.workers[-1].store
        for cell in ("x", "y"):
            numbers = sorted(n for c, n in self.stored if c == cell)
            assert sorted(store.chunk_info(cell)) == numbers
            found = store.table(cell)
            assert len(found) == 3 * len(numbers)
            if numbers:
                expected = pd.concat([table(cell, n) for n in numbers], ignore_index=True)
                pd.testing.assert_frame_equal(found, expected)
            record = store.cell(cell)
            assert (record is not None and record.status == "done") == (cell in self.done)
            assert (store.leases.holder(cell) is None) == (cell not in self.held)
        assert len(store.plans.numbers()) == self.plans

    def teardown(self) -> None:
        for worker in self.workers:
            worker.store.close()
        with Store.open(self.out, create=True) as store:
            assert store.drop_damaged() == []
        shutil.rmtree(self.out)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
