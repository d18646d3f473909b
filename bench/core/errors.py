"""What can go wrong, one class per exit code (docs/reference/files.md has the table of codes).

Message form, everywhere: `<where>: expected <what>, got <value>. <what to do>.`
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from bench.core.text import one_line


class BenchError(Exception):
    """Base of every error that a user can act on; printed as one line, without a traceback.

    Args:
        message: one line is made of it: file names, keys and values in it may be anything.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class UsageError(BenchError, ValueError):
    """Wrong usage or bad configuration.

    Attributes:
        messages: the lines.

    Args:
        messages: what is wrong, one line each; nearly always one.
    """

    exit_code = 2

    def __init__(self, *messages: object) -> None:
        self.messages = tuple(map(one_line, messages or ("",)))
        Exception.__init__(self, "\n".join(self.messages))


class OutOfMemoryError(BenchError):
    """A computation needs more memory than there is; only its cell fails."""


class IntegrityError(BenchError):
    """Data or a checkpoint is not what it claims to be."""

    exit_code = 3


class MachineError(BenchError):
    """The machine lacks something: disk, memory, device, permission, network."""

    exit_code = 4


class SecurityError(BenchError):
    """The request would run or trust something unsafe."""

    exit_code = 5


class StoreError(BenchError):
    """The result store is damaged, or written by a newer bench."""

    exit_code = 6


class LockedError(BenchError):
    """Another process works on the same folder and `--no-wait` was given."""

    exit_code = 7


class TimeLimitError(BenchError):
    """`--time-limit` passed; everything finished so far is stored."""

    exit_code = 75


class Stopped(BaseException):
    """The work was asked to stop; what is finished is stored, and a training has written a checkpoint.

    No `Exception`, so that code which goes on after those does not go on after this one.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known name, or the list of names when none is close."""
    known = sorted(known)
    close = nearest(name, known)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}."


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known name that is closest to a misspelled one, in a list; an empty one where none is close."""
    return difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
