"""How far a call in Python is: a line that changes on a terminal or in a notebook, or lines to a function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bench.core.text import one_line
from bench.core.ticks import Tick, heard

# True: shown; False: silent; None: shown where there is a terminal or a notebook; a function: called with each line.
Shown: TypeAlias = "bool | Callable[[str], object] | None"


@dataclass
class Steps:
    """The evaluations of a call, one after the other.

    Attributes:
        say: called with a line when an evaluation is done, and with notes; None: nobody.
        live: the display; None: none.
    """

    say: Callable[[str], object] | None = None
    live: Progress | None = None
    _task: TaskID | None = None
    _started: float = field(default_factory=time.monotonic)

    def note(self, line: str) -> None:
        """Say what whoever called should know before anything is computed; nothing for ""."""
        if line and self.live is not None:
            self.live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if line and self.say is not None:
            self.say(line)

    def begin(self, name: str, chunks: int) -> None:
        """Begin an evaluation of so many chunks."""
        self._started = time.monotonic()
        if self.live is not None:
            self._task = self.live.add_task(escape(one_line(name, 100)), total=chunks, note="")

    def chunk(self) -> None:
        """Say that a chunk is done."""
        if self.live is not None and self._task is not None:
            self.live.update(self._task, advance=1)

    def hear(self, tick: Tick) -> None:
        """Show how far the chunk is."""
        if self.live is not None and self._task is not None and tick.of:
            self.live.update(self._task, note=escape(f"{one_line(tick.stage, 40)} {tick.done}/{tick.of}".strip()))

    def end(self, name: str, images: int) -> None:
        """End an evaluation of so many images."""
        if self.live is not None and self._task is not None:
            self.live.remove_task(self._task)
        if self.say is not None:
            self.say(f"{one_line(name, 100)}: {images} images, {time.monotonic() - self._started:.1f} s")


@contextmanager
def steps(shown: Shown) -> Iterator[Steps]:
    """Yield what a call tells how far it is.

    Args:
        shown: where it is said.

    Yields:
        The steps; the display ends with the block.
    """
    console = Console(stderr=True)
    if callable(shown):
        found = Steps(say=shown)
    elif shown is False or (shown is None and not (console.is_terminal or console.is_jupyter)):
        yield Steps()
        return
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        note = TextColumn("{task.fields[note]}")
        found = Steps(live=Progress(*columns, TimeElapsedColumn(), note, console=console, transient=True))
    if found.live is not None:
        found.live.start()
    try:
        with heard(found.hear):
            yield found
    finally:
        if found.live is not None:
            found.live.stop()
