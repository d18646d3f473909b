"""What code that is not ours prints: its first lines go to stderr, cut, and none of it to stdout, which is ours."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bench.core.streams import say

LINES: Final = 50  # of its output that are shown
LENGTH: Final = 200  # bytes of a line that are shown
_BLOCK: Final = 1 << 16
_JOIN_SECONDS: Final = 1.0  # for what is still in the pipe; a process that the code started may hold it open


class PrintedLines(threading.Thread):
    """Shows the first lines of what arrives in a pipe, and takes the rest so that its writer is never blocked.

    Args:
        reader: file descriptor of the pipe's end.
        show: called with each line.
    """

    def __init__(self, reader: int, show: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._reader, self._show_line, self._shown = reader, show, 0

    def run(self) -> None:
        """Read until nobody can write any more."""
        pending = b""
        while content := os.read(self._reader, _BLOCK):
            if self._shown > LINES:
                continue
            *lines, pending = (pending + content).split(b"\n")
            if len(pending) > LENGTH:
                lines, pending = [*lines, pending], b""
            self._show(lines)
        self._show([pending] if pending else [])

    def _show(self, lines: Sequence[bytes]) -> None:
        for line in lines[: LINES - self._shown + 1]:
            self._shown += 1
            text = line[:LENGTH].decode(errors="replace")
            if self._shown > LINES:
                text = "… (the rest of its output is not shown)"
            self._show_line(f"  | {text}")


@contextlib.contextmanager
def printed_to_stderr() -> Iterator[None]:
    """Show on stderr, after the block, the first lines of what the block prints on stdout or stderr.

    Both file descriptors are exchanged, so that native code and processes that the block starts are covered.
    """
    lines: list[str] = []
    try:
        with contextlib.ExitStack() as undo:
            try:
                _exchange_streams(undo, lines.append)
            except OSError:  # the caller's process has no such streams
                undo.close()
            yield
    finally:
        for line in lines:
            say(line)


def _exchange_streams(undo: contextlib.ExitStack, show: Callable[[str], None]) -> None:
    """Let stdout and stderr end in a pipe whose lines are shown, until the stack is unwound."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    for copy in saved.values():
        undo.callback(os.close, copy)
    reader, writer = os.pipe()
    thread = PrintedLines(reader, show)
    undo.callback(_finish, thread, reader)
    for number, copy in saved.items():
        undo.callback(os.dup2, copy, number)
        os.dup2(writer, number)
    os.close(writer)
    for name, number in (("stdout", 1), ("stderr", 2)):
        undo.callback(setattr, sys, name, getattr(sys, name))
        stream = open(number, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
        undo.callback(_flushed, stream.flush)
        setattr(sys, name, stream)
    thread.start()


def _flushed(flush: Callable[[], None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        flush()


def _finish(thread: PrintedLines, reader: int) -> None:
    """Wait for the pipe's last lines; its end is closed unless somebody still writes into it."""
    thread.join(_JOIN_SECONDS)
    if not thread.is_alive():
        os.close(reader)
