"""Look at the store while a run goes on, so that cells which other processes compute are said as well."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.core.errors import BenchError
from bench.running.progress.events import CellBegan
from bench.running.progress.reporter import Reporter
from bench.store.activity import Activity, Watcher
from bench.store.database import Database

LOOK_SECONDS: Final = 1.0


@contextlib.contextmanager
def watched(out: Path, jobs: Mapping[str, tuple[str, int]], reporter: Reporter, begun: float) -> Iterator[None]:
    """Tell a reporter inside the block what the store says, once a second, and once more at its end.

    Args:
        out: the result folder.
        jobs: name of a job as the store has it to its title, and its epochs or chunks; only those that were not stored.
        reporter: what is told.
        begun: when the command began, in seconds since the epoch: a failure before it is not one of this run.
    """
    thread = _Watch(out, jobs, reporter, begun)
    thread.start()
    try:
        yield
    finally:
        thread.stop()


class _Watch(threading.Thread):
    """Looks at the store over a connection of its own."""

    def __init__(self, out: Path, jobs: Mapping[str, tuple[str, int]], reporter: Reporter, begun: float) -> None:
        super().__init__(daemon=True, name="bench progress")
        self._out, self._jobs, self._reporter, self._begun = out, jobs, reporter, begun
        self._over = threading.Event()
        self._running: set[str] = set()
        self._ended: set[str] = set()
        self._before: set[str] | None = None  # cells that were done when the run began

    def run(self) -> None:
        """Look until stopped; a store that cannot be read now is looked at again."""
        with contextlib.suppress(BenchError), contextlib.closing(Database.open(self._out, create=False)) as database:
            watcher = Watcher(database)
            while True:
                last = self._over.wait(LOOK_SECONDS if self._before is not None else 0.0)
                with contextlib.suppress(BenchError):
                    self._tell(watcher.look(), last)
                if last:
                    return

    def stop(self) -> None:
        """Look once more, and end the thread."""
        self._over.set()
        self.join()

    def _tell(self, found: list[Activity], last: bool) -> None:
        """Tell the reporter what has changed; a cell's end one look later, as its own process says more of it."""
        if self._before is None:
            self._before = {one.cell for one in found if one.status == "done" and one.heartbeat < self._begun}
        running, ended = set(), set()
        for one in found:
            if one.name not in self._jobs:
                continue
            title, of = self._jobs[one.name]
            if one.status == "done" and one.cell not in self._before:
                ended.add(title)
                if last or title in self._ended:
                    self._reporter.done(title, one.seconds or 0.0)
            elif one.status == "failed" and one.heartbeat >= self._begun:
                self._reporter.failed(title, one.error)
            elif one.status == "running":
                running.add(title)
                if title not in self._running:
                    self._reporter.found(CellBegan(title, one.parts, of))
                self._reporter.stored(title, one.parts)
        for title in self._running - running:
            self._reporter.gone(title)
        self._running, self._ended = running, ended
