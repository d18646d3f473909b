"""Settle a process on its machine: never more threads than cores, and memory that is kept instead of given back."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _ONE_GIB = -1, -3, 1 << 30


def cores() -> int:
    """Return the cores that this process may use: its share, where torchrun has started several on the machine."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, found // max(1, int(sharing))) if sharing.isdecimal() else found


def keep_memory() -> bool:
    """Make glibc keep freed blocks, and Arrow take its memory from glibc.

    On small networks a third to a half of the time goes into page faults for tensors that were given back to the
    system a moment before. It must run before the first large tensor and before Arrow is loaded; results do not change.

    Returns:
        Whether glibc took both settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, _ONE_GIB) and libc.mallopt(_M_TRIM_THRESHOLD, _ONE_GIB))
    except (OSError, AttributeError):
        return False


def limit_threads(pixels: int) -> int:
    """Set torch's threads for images of so many values, whatever OMP_NUM_THREADS says.

    Images below 16×16 are too small to be worth a second thread: waking it costs more than it computes.

    Returns:
        The number of threads, ≥ 1.
    """
    import torch

    from bench.core.torch_state import SMALL_IMAGE

    threads = 1 if pixels < SMALL_IMAGE else max(1, min(cores(), torch.get_num_threads()))
    torch.set_num_threads(threads)
    return threads
