"""A second process for small images: they are too small for a second thread, so a second core takes other cells.

A worker is the same command in another process. It works on the same store by the same leases, says nothing, plans
nothing and reports nothing, and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench.core.processes import die_with_parent
from bench.running import machine

_MARK, _SINCE = "BENCH_WORKER_OF", "BENCH_WORKER_SINCE"
CELLS_PER_WORKER = 8  # starting a process costs as much as a few small cells


def wanted(threads: int, cells: int) -> int:
    """Return how many processes should share so many cells: workers × threads never exceed the cores."""
    return max(1, min(machine.cores() // threads, cells // CELLS_PER_WORKER))


def is_worker() -> bool:
    """Tell whether this process is a worker; it then arranges to die with the process that started it."""
    parent = os.environ.get(_MARK)
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
def started(count: int, arguments: Sequence[str], begun: float) -> Iterator[None]:
    """Run `count` workers of the command `python -m bench <arguments>` inside the block; end them with it.

    Args:
        count: how many.
        arguments: of the command.
        begun: when it began, in seconds since the epoch.
    """
    marks = {_MARK: str(os.getpid()), _SINCE: repr(begun)}
    environment = {**os.environ, **marks, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "bench", *arguments]
    workers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
