"""What a running command knows of its cells, from its own process, its workers and the store, and what it says."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from bench.core.ticks import Tick, heard
from bench.running.progress.display import Display, Silent
from bench.running.progress.ending import Ending
from bench.running.progress.estimate import Pace, Size, UnderWay, in_words, time_left
from bench.running.progress.events import (
    Began,
    CellBegan,
    CellDone,
    CellFailed,
    CellProgress,
    Ended,
    Event,
    Said,
    Writing,
)
from bench.running.progress.view import CellView, Overall

UNSURE: Final = 0.95  # the most that counted passes say of a chunk that is not done
BOARD: Final = "the board"  # in the place of a cell's title
PRINTED: Final = "  |"  # what lines of included code's output begin with


class Reporter:
    """Tells the user what happens, whichever process it happens in. Its methods may be called from any thread.

    Args:
        display: where it is shown; None: nowhere.

    Attributes:
        stop_note: how long a chunk of this process may still take, in words; "" if that is not known.
    """

    def __init__(self, display: Display | None = None) -> None:
        self.display = display or Silent()
        self.stop_note = ""
        self._lock = threading.RLock()
        self._sizes: dict[str, Size] = {}
        self._cells, self._done = 0, 0
        self._processes = 1
        self._ended: dict[str, float] = {}
        self._views: dict[str, CellView] = {}
        self._current: CellView | None = None
        self._forwards: float | None = None
        self._said: set[str] = set()
        self._ending = Ending(0.0)

    def begin(self, began: Began, sizes: Mapping[str, Size], ending: Ending | None = None) -> None:
        """Begin: what is computed, and what each cell that is not stored is expected to cost.

        Args:
            began: the event.
            sizes: title of a cell to its size.
            ending: what follows the last cell; None: nothing.
        """
        with self._lock:
            self._ending = ending or self._ending
            self._cells, self._done, self._processes = began.cells, began.cached, began.processes
            self._sizes = dict(sizes)
            self._show(began)

    def close(self) -> None:
        """End the bars; lines may follow."""
        with self._lock:
            self.display.stop()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say in the block that the board is being written, how far that is, and what is left of the command."""
        with self._lock:
            self._ending.begin()
            view = CellView(BOARD)
            self._views = {BOARD: view}
            self.log("writing the board")

        def step(tick: Tick) -> None:
            with self._lock:
                view.stage, view.stage_done, view.stage_of = tick.stage, tick.done, tick.of
                self._show(Writing(tick.stage, tick.done, tick.of, self._left()))

        with heard(step):
            yield

    def end(self, ended: Ended) -> None:
        """Say how the command ended.

        Args:
            ended: the last event.
        """
        with self._lock:
            self._show(ended)

    def log(self, text: str) -> None:
        """Say a line; what several processes would say alike is said once, what included code prints each time."""
        with self._lock:
            if text.startswith(PRINTED) or text not in self._said:
                self._said.add(text)
                self._show(Said(text))

    def cell(self, title: str, of: int, done: int = 0, forwards: float | None = None) -> None:
        """Begin a cell in this process.

        Args:
            title: of its job.
            of: epochs or chunks.
            done: how many of them are stored already.
            forwards: images that are expected to pass forward in a chunk; None: unknown.
        """
        with self._lock:
            self.take(CellBegan(title, done, of))
            self._current, self._forwards = self._views.get(title), forwards

    def advance(self, note: str = "") -> None:
        """Say that one more epoch or chunk of this process's cell is stored."""
        with self._lock:
            if (cell := self._current) is not None:
                cell.done, cell.stage, cell.stage_done, cell.stage_of = cell.done + 1, "", 0, 0
                cell.share, cell.note = cell.done / max(1, cell.of), note
                self._changed(cell)

    def progress(self, stage: str, done: int, of: int, forwards: int = 0) -> None:
        """Say how far an epoch or chunk of this process's cell is.

        Args:
            stage: of the computation; "" where it has none.
            done: images, batches or steps of the stage.
            of: of how many.
            forwards: images that have passed forward in this chunk; 0 for a training.
        """
        with self._lock:
            if (cell := self._current) is None:
                return
            cell.stage, cell.stage_done, cell.stage_of = stage, done, of
            within = done / of if of and not forwards else None
            if forwards and self._forwards:
                within = forwards / self._forwards
            if within is not None:
                cell.share = max(cell.share or 0.0, (cell.done + min(within, UNSURE)) / max(1, cell.of))
            self._changed(cell)

    def done(self, title: str, seconds: float, note: str = "") -> None:
        """End a cell, whoever computed it; what is known already is said once.

        Args:
            title: of its job.
            seconds: that it took by the clock.
            note: e.g. the training accuracy.
        """
        with self._lock:
            if self._over(title, seconds):
                self._done += 1
                self._show(CellDone(title, seconds, note, self._done, self._cells, self._left()))

    def failed(self, title: str, cause: str) -> None:
        """End a cell that failed, whoever computed it.

        Args:
            title: of its job.
            cause: in one line.
        """
        with self._lock:
            view = self._views.get(title)
            if self._over(title, view.seconds if view else 0.0):
                self._show(CellFailed(title, cause))

    def take(self, event: Event) -> None:
        """Take an event of another process as if it had happened here.

        Args:
            event: what a worker has said.
        """
        with self._lock:
            if isinstance(event, CellDone):
                self.done(event.cell, event.seconds, event.note)
            elif isinstance(event, CellFailed):
                self.failed(event.cell, event.cause)
            elif isinstance(event, Said) and event.text.startswith(PRINTED):
                self.log(event.text)
            elif isinstance(event, CellBegan) and event.cell not in self._ended:
                share = event.done / event.of if event.of else 0.0
                self._views[event.cell] = CellView(event.cell, event.done, event.of, share=share, stored=share)
                self._show(event)
            elif isinstance(event, CellProgress) and (cell := self._views.get(event.cell)) is not None:
                for name in ("done", "of", "stage", "stage_done", "stage_of", "share", "note"):
                    setattr(cell, name, getattr(event, name))
                self._changed(cell)

    def found(self, event: CellBegan) -> None:
        """Take from the store that a cell is being computed, unless its process has said so.

        Args:
            event: with the parts that are stored now.
        """
        with self._lock:
            if event.cell not in self._views:
                self.take(event)

    def stored(self, title: str, parts: int) -> None:
        """Take from the store how many epochs or chunks there are of a cell that is being computed.

        Args:
            title: of its job.
            parts: how many are stored.
        """
        with self._lock:
            cell = self._views.get(title)
            if cell is not None and cell.done < parts <= cell.of:
                cell.done, cell.share = parts, max(cell.share or 0.0, parts / cell.of)
                self._changed(cell)

    def gone(self, title: str) -> None:
        """Forget that a cell is being computed: it was given back unfinished.

        Args:
            title: of its job.
        """
        with self._lock:
            self._views.pop(title, None)

    def _over(self, title: str, seconds: float) -> bool:
        """Note the end of a cell; False if it was known."""
        if title in self._ended:
            return False
        self._ended[title] = seconds
        if self._current is not None and self._current.title == title:
            self._current, self.stop_note = None, ""
        self._views.pop(title, None)
        return True

    def _changed(self, cell: CellView) -> None:
        if cell is self._current:
            self.stop_note = self._chunk_rest(cell)
        self._show(
            CellProgress(
                cell.title, cell.done, cell.of, cell.stage, cell.stage_done, cell.stage_of, cell.share, cell.note
            )
        )

    def _chunk_rest(self, cell: CellView) -> str:
        """Return how long the chunk that is computed may still take, in words; a training stops after a step."""
        if cell.title.startswith("train ") or cell.title not in self._sizes:
            return ""
        rest = Pace(self._sizes, self._ended, self._under_way()).rest(cell.title, cell.under_way())
        return "" if rest is None else in_words(rest / max(1, cell.of - cell.done))

    def _under_way(self) -> dict[str, UnderWay]:
        return {title: view.under_way() for title, view in self._views.items()}

    def _left(self) -> float | None:
        if BOARD in self._views:
            return self._ending.left
        cells = time_left(self._sizes, self._ended, self._under_way(), self._processes)
        return None if cells is None else cells + self._ending.left

    def _show(self, event: Event) -> None:
        overall = Overall(self._done, self._cells, self._left(), tuple(self._views.values()))
        self.display.show(event, overall)
