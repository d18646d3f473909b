"""What the store says of other processes' cells reaches the reporter, once, and never what was there before."""

from __future__ import annotations

import time
from pathlib import Path

from bench.running.progress.events import Began, CellDone, CellFailed, Event
from bench.running.progress.reporter import Reporter
from bench.running.progress.view import Overall
from bench.running.progress.watch import watched
from bench.store.store import Store
from tests.bench.store import folders


class Heard:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.running: set[str] = set()

    def show(self, event: Event, overall: Overall) -> None:
        self.events.append(event)
        self.running |= {cell.title for cell in overall.cells}

    def stop(self) -> None:
        pass


def test_cells_of_other_processes_are_said_once(tmp_path: Path) -> None:
    heard = Heard()
    reporter = Reporter(heard)
    jobs = {name: (f"job {name}", 3) for name in ("old", "other", "broken", "own", "long")}
    with Store.open(tmp_path / "out", create=True) as store:
        old = folders.claimed(store, "1", "evaluation", {"name": "old"})
        store.finish(old, {"wall_seconds": 1.0})
        begun = time.time()
        reporter.begin(Began("s", "d", "cpu", "out", cells=5, cached=1, processes=2), {})
        with watched(tmp_path / "out", jobs, reporter, begun):
            other = folders.claimed(store, "2", "evaluation", {"name": "other"})
            long = folders.claimed(store, "3", "evaluation", {"name": "long"})
            store.put_chunk(long, 0, folders.table_of(0), None, {"images": 2})
            own = folders.claimed(store, "4", "evaluation", {"name": "own"})
            deadline = time.monotonic() + 30
            while not {"job other", "job long", "job own"} <= heard.running and time.monotonic() < deadline:
                time.sleep(0.05)
            store.finish(other, {"wall_seconds": 2.5})
            store.finish(own, {"wall_seconds": 9.0})
            reporter.done("job own", 8.0, "a note")
            store.fail(folders.claimed(store, "5", "evaluation", {"name": "broken"}), "a cause")
    ends = {e.cell: (e.seconds, e.note, e.of) for e in heard.events if isinstance(e, CellDone)}
    assert ends == {"job own": (8.0, "a note", 5), "job other": (2.5, "", 5)}
    assert [e.done for e in heard.events if isinstance(e, CellDone)] == [2, 3]
    assert [(e.cell, e.cause) for e in heard.events if isinstance(e, CellFailed)] == [("job broken", "a cause")]
    assert any(getattr(e, "cell", "") == "job long" and getattr(e, "done", 0) == 1 for e in heard.events)
