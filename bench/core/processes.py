"""Processes that other people's code runs in: how one ended, in words, and whether a call would end this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Final, NoReturn

TRIAL_SECONDS: Final = 300.0  # within which an import, or a network's construction, must come back

WORKER_MARK: Final = "BENCH_WORKER_OF"  # in the environment of a worker: the process that it works for
_PR_SET_PDEATHSIG = 1
_HINTS: Final = {
    signal.SIGKILL: "killed by the system, most likely because memory ran out",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "a crash in native code",
    signal.SIGILL: "a crash in native code",
    signal.SIGFPE: "a crash in native code",
    signal.SIGABRT: "abort() in native code",
}


def torchrun_rank() -> int | None:
    """Return the number of this process among those that torchrun has started together; None: it runs alone."""
    size, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK", "")
    return int(rank) if size.isdecimal() and rank.isdecimal() and int(size) > 1 else None


def die_with_parent() -> None:
    """Have the system kill this process when the one that started it ends (Linux; nothing elsewhere)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def how_it_ended(code: int | None) -> str:
    """Return in words how a process ended.

    Args:
        code: its exit code, negative for a signal; None: unknown.
    """
    if code is None or code >= 0:
        return f"exit code {'unknown' if code is None else code} (sys.exit or os._exit was called)"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"signal {-code}"
    return number.name + (f" ({_HINTS[number]})" if number in _HINTS else "")


def kill_group(pid: int) -> None:
    """Kill a process that leads a session, with every process that it has started in it."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def deadly(function: Callable[[], object], seconds: float = TRIAL_SECONDS) -> str:
    """Call a function in a copy of this process, and say whether the call ends it or does not come back.

    The copy is silent, and what it changes is gone. Its random generators and files are this process's, so that the
    call does there what it would do here; torch uses one thread in it.

    Args:
        function: what is tried.
        seconds: how long it may take.

    Returns:
        What happened, in words; "" where it returned or raised, and where a process cannot be copied (no Linux, or a
        GPU is in use, which a copy cannot reach).
    """
    torch = sys.modules.get("torch")
    if not sys.platform.startswith("linux") or (torch is not None and torch.cuda.is_initialized()):
        return ""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the copy has one thread of this process: it computes alone
        pid = os.fork()
    if pid == 0:
        _try(function, writer)
    os.close(writer)
    try:
        came_back = bool(select.select([reader], [], [], seconds)[0])
        returned = came_back and os.read(reader, 1) == b"."
    finally:
        os.close(reader)
        kill_group(pid)  # it has said all that it can say, or it is dead
        status = os.waitpid(pid, 0)[1]
    if not came_back:
        return f"nothing within {seconds:g} s"
    return "" if returned else f"the end of the process by {how_it_ended(os.waitstatus_to_exitcode(status))}"


def _try(function: Callable[[], object], writer: int) -> NoReturn:
    """Call a function in the copy, tell that it came back, and leave without cleaning up what is not the copy's."""
    die_with_parent()
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it ends with the process
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # threads of a pool do not outlive a fork
    with contextlib.suppress(BaseException):
        function()
    os.write(writer, b".")
    while True:
        signal.pause()  # until it is killed: nothing that was registered to run at an exit runs
