"""When to stop: a time limit, Ctrl-C, SIGTERM. Work ends at the next safe point, with everything so far stored."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """Asked after every step and chunk whether to stop; remembers why, as an exit code.

    Attributes:
        code: None, or 75 (time limit), 130 (Ctrl-C), 143 (SIGTERM).
        within: returns how long it may take until work stops, in words; "" where that is not known.
        ends_chunks: whether Ctrl-C lets the chunk under way end; False where a cluster computes it, which is left.
        at_last: whether Ctrl-C was pressed again: nothing more is done but leave.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.code: int | None = None
        self.within: Callable[[], str] = str
        self.ends_chunks = True
        self.at_last = False
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def __call__(self) -> bool:
        """Tell whether to stop."""
        if self.code is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.code = 75
        return self.code is not None

    def at_once(self) -> bool:
        """Tell whether to stop within a chunk: at the time limit and at SIGTERM. Ctrl-C lets a chunk end."""
        return self() and self.code != 130

    def unless_time_for(self, seconds: float) -> None:
        """Ask to stop, as at the time limit, if less than so many seconds are left until it."""
        if self.code is None and self._deadline is not None and time.monotonic() + seconds >= self._deadline:
            self.code = 75

    @contextlib.contextmanager
    def signals(self) -> Iterator[StopRequest]:
        """Listen to Ctrl-C and SIGTERM inside the block; a second Ctrl-C interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for s, handler in old.items():
                signal.signal(s, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None and number == signal.SIGINT:
            self.at_last = True
            raise KeyboardInterrupt
        self.code = 128 + number
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # the handler may run inside a print: write past the buffers
                os.write(2, f"\nCtrl-C: {self._announced()}; Ctrl-C again stops now.\n".encode())

    def _announced(self) -> str:
        """Return in words when work stops after the first Ctrl-C."""
        if not self.ends_chunks:
            return "leaving the cluster, chunks under way there are computed again by the next command"
        time_ = self.within()
        return f"stopping after this chunk, up to {time_}" if time_ else "stopping after this step"


def parse_duration(text: str) -> float:
    """Return the seconds in "90s", "9m" or "1.5h".

    Raises:
        ValueError: it is none of these; a number alone has no unit.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    if text[-1:] not in units:
        raise ValueError(text)
    seconds = float(text[:-1]) * units[text[-1]]
    if not 0 < seconds < 1e9:
        raise ValueError(text)
    return seconds
