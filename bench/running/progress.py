"""What a running command says: a live display on a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.core import streams
from bench.core.text import one_line


class Reporter:
    """Tells the user what happens, on stderr. Results go to stdout elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self._live: Progress | None = None
        self._all: Any = None
        self._cell: Any = None
        self._started = time.monotonic()
        self._computed = 0.0

    def start(self, cells: int, cached: int) -> None:
        """Begin: so many cells, of which so many are stored already."""
        self.log(f"{cells} cells, {cached} cached")
        if not self.console.is_terminal or self.console.quiet:
            return
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self._live.start()
        self._all = self._live.add_task("cells", total=cells, completed=cached, note="")

    def stop(self) -> None:
        """End the live display."""
        if self._live:
            self._live.stop()
            self._live = None

    def log(self, text: str) -> None:
        """Print a line."""
        self._print("  " * text.startswith("  ") + one_line(text))

    def cell(self, name: str, total: int) -> None:
        """Begin a cell of `total` epochs or chunks."""
        if self._live:
            self._cell = self._live.add_task(escape(one_line(name, 100)), total=total, note="")

    def advance(self, note: str = "") -> None:
        """Say that one more epoch or chunk of the cell is done."""
        if self._live and self._cell is not None:
            self._live.update(self._cell, advance=1, note=escape(one_line(note, 100)))

    def done(self, name: str, seconds: float, note: str = "") -> None:
        """End a cell."""
        self._end()
        self._computed += seconds
        self._line(name, f"{seconds:7.1f} s  {one_line(note)}")

    def failed(self, name: str, cause: str) -> None:
        """End a cell that failed."""
        self._end()
        self._line(name, f"FAILED  {one_line(cause)}")

    def _line(self, name: str, what: str) -> None:
        """Print what became of a cell, in columns."""
        self._print(f"  {one_line(name, 200):<44} {what}".rstrip())

    def _print(self, line: str) -> None:
        """Print a line; where nobody can read it any more, the work goes on in silence."""
        try:
            self.console.print(escape(line))
        except OSError:
            self.console.quiet = True
            streams.discard(sys.stderr)

    def _end(self) -> None:
        if self._live and self._cell is not None:
            self._live.remove_task(self._cell)
            self._cell = None
        if self._live:
            self._live.update(self._all, advance=1, note=self._time_left())

    def _time_left(self) -> str:
        """Estimate the time left from the cells done so far."""
        task = self._live.tasks[self._all] if self._live else None
        if task is None or not task.total or not task.speed:
            return ""
        seconds = (task.total - task.completed) / task.speed
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
