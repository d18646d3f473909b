"""A second process for small images: they are too small for a second thread, so a second core takes other cells.

A worker is the same command in another process. It works on the same store by the same leases, plans nothing and
reports nothing, says what it computes to the process that started it alone, and dies with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from bench.core.processes import WORKER_MARK, die_with_parent
from bench.running import machine

_SINCE = "BENCH_WORKER_SINCE"
_JOIN_SECONDS = 1.0  # for the last lines of a worker
CELLS_PER_WORKER = 8  # starting a process costs as much as a few small cells


def wanted(threads: int, cells: int) -> int:
    """Return how many processes should share so many cells: workers × threads never exceed the cores."""
    return max(1, min(machine.cores() // threads, cells // CELLS_PER_WORKER))


def is_worker() -> bool:
    """Tell whether this process is a worker; it then arranges to die with the process that started it."""
    parent = os.environ.get(WORKER_MARK)
    if parent is None:
        return False
    die_with_parent()
    if os.getppid() != int(parent):  # it died before the arrangement
        os._exit(0)
    return True


def since() -> float:
    """Return when the command that a worker works for began, in seconds since the epoch."""
    return float(os.environ[_SINCE])


@contextlib.contextmanager
def started(
    count: int, arguments: Sequence[str], begun: float, hear: Callable[[str], None] = lambda line: None
) -> Iterator[None]:
    """Run `count` workers of the command `python -m bench <arguments>` inside the block; end them with it.

    Args:
        count: how many.
        arguments: of the command.
        begun: when it began, in seconds since the epoch.
        hear: called, from a thread per worker, with each line that it prints: what it computes.
    """
    marks = {WORKER_MARK: str(os.getpid()), _SINCE: repr(begun)}
    environment = {**os.environ, **marks, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "bench", *arguments]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(count)
    ]
    threads = [threading.Thread(target=_listen, args=(worker.stdout, hear), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        for thread in threads:
            thread.join(_JOIN_SECONDS)


def _listen(stream: IO[str] | None, hear: Callable[[str], None]) -> None:
    """Pass on what a worker prints until nobody can print there any more, and close the pipe."""
    if stream is None:
        return
    with stream, contextlib.suppress(OSError, ValueError):  # cut within a character where the worker was ended
        for line in stream:
            hear(line)
