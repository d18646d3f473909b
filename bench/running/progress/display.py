"""Where a command's progress is shown: a live display on a terminal, plain lines elsewhere, events, or nowhere."""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bench.core import streams
from bench.core.text import one_line
from bench.running.progress.estimate import in_words
from bench.running.progress.events import Began, CellDone, CellFailed, CellProgress, Event, Said, Writing, as_line
from bench.running.progress.view import CellView, Overall

REFRESHES: Final = 4  # of the live display, per second
QUIET_SECONDS: Final = 60.0  # without a line, after which plain output says how far the run is
EVENT_SECONDS: Final = 1.0  # between two events about one cell's progress


class Display(Protocol):
    """What a reporter shows its events on."""

    def show(self, event: Event, overall: Overall) -> None:
        """Show an event, and how far the run is after it."""
        ...

    def stop(self) -> None:
        """End the display; nothing is shown after it but lines."""
        ...


class Silent:
    """Shows nothing."""

    def show(self, event: Event, overall: Overall) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class Events:
    """Prints each event as one JSON object per line on stdout, progress at most once per second and cell."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def show(self, event: Event, overall: Overall) -> None:
        """Print an event."""
        if isinstance(event, CellProgress | Writing):
            now, what = time.monotonic(), event.cell if isinstance(event, CellProgress) else ""
            if now - self._last.get(what, 0.0) < EVENT_SECONDS:
                return
            self._last[what] = now
        try:
            print(as_line(event), flush=True)
        except (OSError, ValueError):  # its reader has gone: the work goes on
            streams.discard(sys.stdout)

    def stop(self) -> None:
        """Do nothing."""


class Lines:
    """Prints a line per cell on stderr; where nothing ended for a minute, how far the run is."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._last = time.monotonic()

    def show(self, event: Event, overall: Overall) -> None:
        """Print what an event says, if it is worth a line."""
        if isinstance(event, Said):
            self.line("  " * event.text.startswith("  ") + one_line(event.text))
        elif isinstance(event, Began):
            self.line(f"{event.cells} cells, {event.cached} cached{_processes(event.processes)}")
        elif isinstance(event, CellDone):
            note = f"  {one_line(event.note)}" if event.note else ""
            self.cell(event.cell, f"{event.seconds:7.1f} s  [{event.done}/{event.of}]{note}{self.rest(overall)}")
        elif isinstance(event, CellFailed):
            self.cell(event.cell, f"FAILED  {one_line(event.cause)}")
        elif isinstance(event, CellProgress | Writing) and time.monotonic() - self._last > QUIET_SECONDS:
            running = "; ".join(f"{one_line(c.title, 100)} {c.position}".rstrip() for c in overall.cells)
            left = f", {_left(overall.left)}" if overall.left else ""
            self.line(f"  {overall.done}/{overall.of} cells{left}; computing {running}")

    def rest(self, overall: Overall) -> str:
        """Return the end of a cell's line: the time that is left."""
        return f"  {_left(overall.left)}" if overall.left else ""

    def cell(self, title: str, what: str) -> None:
        """Print what became of a cell, in columns."""
        self.line(f"  {one_line(title, 200):<44} {what}".rstrip())

    def line(self, text: str) -> None:
        """Print a line; where nobody can read it any more, the work goes on in silence."""
        self._last = time.monotonic()
        try:
            self.console.print(escape(text))
        except OSError:
            self.console.quiet = True
            streams.discard(sys.stderr)

    def stop(self) -> None:
        """Do nothing."""


class Live(Lines):
    """Keeps a bar for the run, and one for every cell that is being computed, below the lines."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: Progress | None = None
        self._all: TaskID | None = None
        self._cells: dict[str, TaskID] = {}

    def show(self, event: Event, overall: Overall) -> None:
        """Print what an event says, below it the bars as they are after it: every count is drawn, however fast."""
        if isinstance(event, Began):
            super().show(event, overall)
            self._start(overall)
        self._update(overall)
        if not isinstance(event, Began | CellProgress | Writing):
            self._draw()
            super().show(event, overall)

    def rest(self, overall: Overall) -> str:
        """Return nothing: the time that is left stands beside the bar."""
        return ""

    def stop(self) -> None:
        """End the bars."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self, overall: Overall) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[position]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            refresh_per_second=REFRESHES,
        )
        self._progress.start()
        self._all = self._progress.add_task("cells", total=overall.of, completed=overall.done, position="", note="")

    def _draw(self) -> None:
        """Draw the bars now; between events they are drawn at a rate."""
        if self._progress is not None:
            self._progress.refresh()

    def _update(self, overall: Overall) -> None:
        if self._progress is None or self._all is None:
            return
        left = _left(overall.left) if overall.left else ""
        position = f"{overall.done}/{overall.of}"
        self._progress.update(self._all, completed=overall.done, position=position, note=left)
        shown = {cell.title: cell for cell in overall.cells}
        for title in [title for title in self._cells if title not in shown]:
            self._progress.remove_task(self._cells.pop(title))
        for title, cell in shown.items():
            self._update_cell(title, cell)

    def _update_cell(self, title: str, cell: CellView) -> None:
        assert self._progress is not None
        if title not in self._cells:
            name = escape(one_line(title, 60))
            self._cells[title] = self._progress.add_task(f"  {name}", total=None, position="", note="")
        total = 1.0 if cell.share is not None else None
        self._progress.update(
            self._cells[title],
            total=total,
            completed=cell.share or 0.0,
            position=escape(one_line(cell.position, 40)),
            note=escape(one_line(cell.note, 40)),
        )


def display_for(quiet: bool, events: bool) -> Display:
    """Return what shows a command's progress.

    Args:
        quiet: nothing is shown.
        events: one JSON object per line on stdout.
    """
    if events:
        return Events()
    if quiet:
        return Silent()
    return Live() if sys.stderr.isatty() else Lines()


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"about {in_words(seconds)} left"


def _processes(count: int) -> str:
    return f", {count} processes" if count > 1 else ""
