"""What a computation costs in time: CPU time of its threads, a GPU's own time, and the wall clock beside them.

A wall clock also counts what else runs on the machine. CPU time does not; where it is clearly below the wall clock's,
the machine was busy, and even CPU time is then inflated by caches that others emptied. A GPU's time counts what other
programs run on it in between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from bench.core import gpu_programs


@dataclass(frozen=True, slots=True)
class ComputingTime:
    """Time that a computation took, in seconds.

    Attributes:
        cpu: CPU time of the computing threads: of the thread that asked for it where torch uses one thread, of the
            whole process where it uses several, whose work a single thread's clock does not see.
        thread: CPU time of the thread that asked for it, without torch's other threads. Its share of `wall` says how
            busy the machine was: a thread that computes alone runs all the time.
        wall: of the wall clock.
        device: between the first and the last operation on a GPU; None on a CPU.
        programs: programs that had the GPU at a time, the most seen, this one included; None on a CPU, or unknown.
    """

    cpu: float = 0.0
    thread: float = 0.0
    wall: float = 0.0
    device: float | None = None
    programs: int | None = None

    def __add__(self, other: ComputingTime) -> ComputingTime:
        """Return the time of both together."""
        known = [t.device for t in (self, other) if t.device is not None]
        programs = [t.programs for t in (self, other) if t.programs is not None]
        return ComputingTime(
            self.cpu + other.cpu,
            self.thread + other.thread,
            self.wall + other.wall,
            sum(known) if known else None,
            max(programs) if programs else None,
        )

    @property
    def cost(self) -> float:
        """The time that the computation itself needed: a GPU's own time, else CPU time."""
        return self.cpu if self.device is None else self.device

    def as_data(self) -> dict[str, float]:
        """Return the times as plain data, as the store keeps them."""
        data = {"cpu_seconds": self.cpu, "thread_seconds": self.thread, "wall_seconds": self.wall}
        gpu = {"device_seconds": self.device, "device_programs": self.programs}
        return {**data, **{name: value for name, value in gpu.items() if value is not None}}


class Stopwatch:
    """Measure the time from its making, or the last `restart`, on this thread and a device.

    Args:
        device: where the work is done. On a GPU two events on its current stream are timed; nothing waits for the
            device before `read`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start: torch.cuda.Event | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        if self._device.type == "cuda":
            self._start = _event(self._device)
        self._wall, self._thread, self._process = time.monotonic(), time.thread_time(), time.process_time()

    def read(self) -> ComputingTime:
        """Return the time since the beginning; on a GPU, wait for what has been launched."""
        device, programs = None, None
        if self._start is not None:
            end = _event(self._device)
            end.synchronize()
            device, programs = self._start.elapsed_time(end) / 1000, gpu_programs.on_device(self._device)
        wall, thread = time.monotonic() - self._wall, time.thread_time() - self._thread
        cpu = thread if torch.get_num_threads() == 1 else time.process_time() - self._process
        return ComputingTime(cpu, thread, wall, device, programs)


def _event(device: torch.device) -> torch.cuda.Event:
    """Return an event with a time, recorded now on a GPU's current stream."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
