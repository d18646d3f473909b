"""Standard input, output and error that may be closed, full or limited to ASCII: finished work must survive them."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Final, TextIO

from bench.core.text import one_line

_MODES: Final = ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY))


def secure() -> None:
    """Make the standard streams usable, whatever the process was started with.

    A closed one becomes /dev/null: else the next file that is opened gets its number, and what others print goes
    into it. Characters that the terminal has no code for are written by their number instead of raising.
    """
    for number, mode in _MODES:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(message: object) -> None:
    """Print one line on stderr; where nobody can read it, do nothing."""
    try:
        print(one_line(message), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


@contextlib.contextmanager
def finished_work(where: str) -> Iterator[None]:
    """Print in the block what is stored anyway: a closed or full stdout is said on stderr, and nothing more.

    Args:
        where: where it can be read instead.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has gone (`| head`) and wants no more
        discard(sys.stdout)
    except OSError as error:
        discard(sys.stdout)
        say(f"stdout: expected to print the results, got {error.strerror or error}. They are in {where}.")


def reader_gone() -> bool:
    """Tell whether stdout is a pipe that nobody reads any more, as after `| head`."""
    if not hasattr(select, "poll") or sys.__stdout__ is None:
        return False
    try:
        poll = select.poll()
        poll.register(sys.__stdout__.fileno(), 0)  # an error is always reported
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def discard(stream: TextIO | None) -> None:
    """Send what is still written to a stream to /dev/null, so that nothing raises when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        if stream is None:
            return
        number = stream.fileno()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, number)
        os.close(sink)
