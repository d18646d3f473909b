"""One training step as one CUDA graph: the kernels of the eager step, launched all at once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.training.gradients import Log, first_line
from bench.training.step import EagerStep

# Eager steps before a capture, in which the libraries choose their algorithms and reserve their memory.
CAPTURE_WARMUP_STEPS = 3


class Stage(Protocol):
    """Where steps are warmed up and recorded."""

    def warm_up(self, body: Callable[[], None], *, report_waits: bool) -> str:
        """Run a function as a capture's warm-up must.

        Args:
            body: launches operations.
            report_waits: look for operations that wait for the device.

        Returns:
            The first operation that waits, as torch reports it; "" if none does or none was looked for.
        """

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Note what a function launches, without running it, and return what launches all of it at once."""

    def forget(self) -> None:
        """Let go of what earlier recordings have reserved: they are not replayed again."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded step and the buffers that it reads its batch from."""

    x: Tensor
    y: Tensor
    replay: Callable[[], None]

    def run(self, x: Tensor, y: Tensor) -> None:
        """Train on another batch of the same size."""
        self.x.copy_(x)
        self.y.copy_(y)
        self.replay()


class CudaGraphStep:
    """An eager step, recorded once for each size of a batch over buffers that stay in place, and then replayed.

    The first steps of each size run eagerly; in the last of them torch reports operations that wait for the device,
    because such a step cannot be recorded. What Python does in a step (a number computed from the epoch, a branch) is
    frozen in the recording until `invalidate`.

    Args:
        inner: the step. Its optimiser's learning rate becomes a tensor on the device.
        log: called once if there will be no recording.
        stage: warms up and records.

    Attributes:
        recordings: images of a batch → the recorded step; None: it runs eagerly.
    """

    def __init__(self, inner: EagerStep, *, log: Log, stage: Stage) -> None:
        self.inner, self.log, self.stage = inner, log, stage
        self.lr = torch.zeros((), device=next(inner.model.parameters()).device)
        for group in inner.optimizer.param_groups:
            group["lr"] = self.lr
        self.warmup_steps: Counter[int] = Counter()
        self.recordings: dict[int, _Recording | None] = {}
        self._said = False

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""
        self.lr.fill_(lr)
        size = len(x)
        if size not in self.recordings:
            if self.warmup_steps[size] < CAPTURE_WARMUP_STEPS:
                self._warm_up(x, y)
                return
            self.recordings[size] = self._recorded(x, y)
        recording = self.recordings[size]
        if recording is None:
            self.inner.body(x, y)
        else:
            recording.run(x, y)

    def _warm_up(self, x: Tensor, y: Tensor) -> None:
        """Run a step eagerly as a capture's warm-up must, and look for operations that wait in the last one."""
        self.warmup_steps[len(x)] += 1
        last = self.warmup_steps[len(x)] == CAPTURE_WARMUP_STEPS
        if waits := self.stage.warm_up(lambda: self.inner.body(x, y), report_waits=last):
            self.recordings[len(x)] = None
            self._say(f"a step that never waits for the device, got one that does ({waits})")

    def _recorded(self, x: Tensor, y: Tensor) -> _Recording | None:
        """Return the recording of a step on batches like x, y; None if there can be none."""
        x, y = x.clone(), y.clone()
        try:
            return _Recording(x, y, self.stage.record(lambda: self.inner.body(x, y)))
        except Exception as error:  # whatever a driver or a library objects to: the eager step does the same
            self._say(f"a step that can be recorded, got {first_line(error)}")
            return None

    def _say(self, cause: str) -> None:
        """Log, once, why steps run eagerly."""
        if not self._said:
            self.log(f"training step: expected {cause}. Going on operation by operation, which is slower.")
        self._said = True

    def reset(self) -> None:
        """Set all sums to 0, as an epoch begins: in place, because the recording adds to them there."""
        for total in self.inner.sums.values():
            total.zero_()

    def invalidate(self) -> None:
        """Warm up and record anew."""
        self.inner.invalidate()
        self.recordings.clear()
        self.warmup_steps.clear()
        self.stage.forget()


class GpuStage:
    """One side stream of a GPU for every warm-up and capture, and one memory pool for every recording.

    A stream keeps the memory that was used on it: each further stream would hold the activations of another step.
    Recordings can share their memory because they are replayed one at a time, and what a step hands on to the next
    (weights, momentum, buffers, sums) lies outside: it was there before the capture.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._stream = device, torch.cuda.Stream(device)
        self._pool: Any = None

    def warm_up(self, body: Callable[[], None], *, report_waits: bool) -> str:
        """Run a function on the side stream, see `Stage`."""
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn" if report_waits else "default")
            try:
                body()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        here.wait_stream(self._stream)
        waits = [str(w.message) for w in caught if "called a synchronizing" in str(w.message)]
        return first_line(waits[0]) if report_waits and waits else ""

    def record(self, body: Callable[[], None]) -> Callable[[], None]:
        """Capture what a function launches, without running it; torch gives cached memory back to the GPU before.

        Args:
            body: launches operations that never wait.

        Returns:
            What launches all of it at once.

        Raises:
            Exception: whatever the capture objects to; also if it has caught nothing, which torch only warns of.
        """
        graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*CUDA Graph is empty.*")
            # The stream's device becomes the current one: the default is a stream of the first GPU.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                body()
        self._pool = graph.pool()
        return graph.replay

    def forget(self) -> None:
        """Record into a new pool: the memory of the old one goes with its recordings."""
        self._pool = None
