"""One `bench run` in several processes that `torchrun` has started: all train together, the first does the rest.

The first process (rank 0) plans, owns the store, evaluates and reports, as a run in one process does. The others wait,
take part in each training that it announces, and store nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch

from bench.core.errors import MachineError, Stopped, UsageError
from bench.running import machine
from bench.running.environment import choose_device
from bench.running.tasks import Task, TrainTask, from_bytes, to_bytes
from bench.training.loop import Diverged, train
from bench.training.split.check import NotSplitError
from bench.training.split.group import Group, LostProcessError

_NEEDED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_joined: list[Group] = []  # the group of this process, as torch.distributed has one


def joined() -> Group | None:
    """Return the group that this process trains in; None: it trains alone."""
    return _joined[0] if _joined else None


@contextlib.contextmanager
def group(device: str, engine: str, seconds: float) -> Iterator[Group]:
    """Join the processes that torchrun has started inside the block; the first one's end is the others' end.

    Args:
        device: as on the command line: auto, cpu or cuda.
        engine: where cells run.
        seconds: within which each process must answer.

    Yields:
        The group.

    Raises:
        UsageError: the options do not go together with torchrun.
        MachineError: there are fewer GPUs than processes, or torch.distributed is missing.
    """
    if engine != "local":
        raise UsageError(f"--engine: expected local under torchrun, got {engine!r}. Leave torchrun or the engine out.")
    if missing := [name for name in _NEEDED if name not in os.environ]:
        raise UsageError(
            f"torchrun: expected the environment that it sets, got no {', '.join(missing)}. Start the command as "
            "`torchrun --nproc-per-node 2 -m bench run …`, or unset WORLD_SIZE."
        )
    if not torch.distributed.is_available():
        raise MachineError("torchrun: expected torch with torch.distributed, got one without. Install another build.")
    own = _own_device(device)
    found = Group(own, seconds, "gloo" if own.type == "cpu" else "cpu:gloo,cuda:nccl")
    _joined.append(found)
    try:
        yield found
    finally:
        _joined.remove(found)
        with contextlib.suppress(LostProcessError):
            if found.rank == 0:
                found.send(b"", patient=True)
        found.close()


def _own_device(name: str) -> torch.device:
    """Return this process's device: the CPU, or the GPU with its number on this machine."""
    if ":" in name:
        raise UsageError(
            f"--device: expected auto, cpu or cuda under torchrun, got {name!r}. Each process has its own."
        )
    device, local = choose_device(name), int(os.environ["LOCAL_RANK"])
    if device.type == "cpu":
        return device
    if local >= torch.cuda.device_count():
        raise MachineError(
            f"torchrun: expected a GPU for each process of this machine, found {torch.cuda.device_count()}. Lower "
            "--nproc-per-node."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def take_part(found: Group) -> None:
    """Take part in the first process's trainings until it ends: what the other processes do.

    What stops a run is told to the first process, which tells the others; they do not look for themselves.

    Args:
        found: the group.

    Raises:
        LostProcessError: a process of the group has ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while content := found.send(b"", patient=True):
        task = from_bytes(content)
        if found.device.type == "cpu":
            machine.limit_threads(task.job.shape[0] * task.job.shape[1] * task.job.shape[2])
        with contextlib.suppress(Stopped, NotSplitError, Diverged):  # in every process alike
            train(task.job, found.device, execution=task.execution, group=found)


def group_for(task: TrainTask) -> Group | None:
    """Return the group that a training is split over; None: it is this process's alone.

    Args:
        task: the training.

    Raises:
        UsageError: its steps are to run in another way than operation by operation.
    """
    found = joined()
    if found is None:
        return None
    if task.execution.step not in ("auto", "eager"):
        raise UsageError(f"--step: expected auto or eager under torchrun, got {task.execution.step!r}. Leave it out.")
    return found


def refuse_apart(task: Task) -> None:
    """Refuse a training that belongs in a process of its own, where there are others to train with.

    Args:
        task: what is to be computed there.

    Raises:
        UsageError: it is a training, and this process trains with others.
    """
    if isinstance(task, TrainTask) and joined() is not None:
        raise UsageError(
            f"training {task.label}: expected a defense of bench under torchrun, got one that is trained in a process "
            "of its own, since it is third parties' code or has ended a process before. Run it without torchrun."
        )


@contextlib.contextmanager
def together(task: TrainTask, found: Group | None) -> Iterator[None]:
    """Have the other processes take part in the training inside the block.

    Args:
        task: the training.
        found: the group; None: there are no others.

    Raises:
        Stopped: it was asked to stop.
        NotSplitError: it cannot be split over processes.
        Diverged: a loss or a weight became NaN or infinite.
        BaseException: whatever ended it in this process alone; the group cannot train any more.
    """
    if found is None:
        yield
        return
    found.send(to_bytes(replace(task, device=torch.device(found.device.type))), patient=True)
    try:
        yield
    except (Stopped, NotSplitError, Diverged):  # in every process alike
        raise
    except BaseException:
        found.close()  # the others wait inside a step: they must not wait for good
        raise
