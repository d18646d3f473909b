"""How many programs have a GPU: its time, unlike a processor's, is not told apart by program."""

from __future__ import annotations

import os

import psutil
import pynvml
import torch


def on_device(device: torch.device) -> int | None:
    """Return how many programs that can compute on a GPU there are, this one and what it has started counted as one.

    Args:
        device: a GPU that this process uses.

    Returns:
        At least 1; None where NVIDIA's library does not tell.
    """
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    try:
        pynvml.nvmlInit()  # counted by the library: cheap after the first
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pids = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except pynvml.NVMLError:
        return None
    return count(pids, _own_family())


def count(pids: set[int], own: set[int]) -> int:
    """Return how many programs processes belong to.

    Args:
        pids: of the processes on the GPU.
        own: of this program. None of them is among `pids` in a container, where the library names the host's numbers;
            one of `pids` is this program then.
    """
    others = len(pids - own)
    return max(1, others if not pids & own else others + 1)


def _own_family() -> set[int]:
    """Return the processes of this program: this one and all that it has started."""
    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
