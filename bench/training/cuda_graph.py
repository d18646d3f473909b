"""One training step as one CUDA graph: the kernels of the eager step, launched all at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.training.gradients import Log, first_line
from bench.training.step import EagerStep

# Eager steps before a capture, in which the libraries choose their algorithms and reserve their memory.
CAPTURE_WARMUP_STEPS = 3

Record = Callable[[Callable[[], None]], Callable[[], None]]


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
    """An eager step, recorded once over buffers that stay in place, and then replayed; other batch sizes run eagerly.

    The first steps run eagerly; in the last of them torch reports operations that wait for the device, because such a
    step cannot be recorded. What Python does in a step (a number computed from the epoch, a branch) is frozen in the
    recording until `invalidate`.

    Args:
        inner: the step. Its optimiser's learning rate becomes a tensor on the device.
        size: images of a batch that is worth recording.
        log: called once if there will be no recording.
        record: runs a function once, or only notes what it would do, and returns what does it again.
    """

    def __init__(self, inner: EagerStep, *, size: int, log: Log, record: Record) -> None:
        self.inner, self.size, self.log, self.record = inner, size, log, record
        self.lr = torch.zeros((), device=next(inner.model.parameters()).device)
        for group in inner.optimizer.param_groups:
            group["lr"] = self.lr
        self.warmup_steps, self.possible = 0, True
        self.recording: _Recording | None = None

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""
        self.lr.fill_(lr)
        if not self.possible or len(x) != self.size:
            self.inner.body(x, y)
        elif self.warmup_steps < CAPTURE_WARMUP_STEPS:
            self._warm_up(x, y)
        else:
            if self.recording is None:
                self.recording = self._recorded(x, y)
            if self.recording is None:
                self.inner.body(x, y)
            else:
                self.recording.run(x, y)

    def _warm_up(self, x: Tensor, y: Tensor) -> None:
        """Run a step eagerly as a capture's warm-up must, and look for operations that wait in the last one."""
        self.warmup_steps += 1
        last = self.warmup_steps == CAPTURE_WARMUP_STEPS
        if waits := run_on_side_stream(lambda: self.inner.body(x, y), x.device, report_waits=last):
            self._give_up(f"a step that never waits for the device, got one that does ({waits})")

    def _recorded(self, x: Tensor, y: Tensor) -> _Recording | None:
        """Return the recording of a step on batches like x, y; None if there can be none."""
        x, y = x.clone(), y.clone()
        try:
            return _Recording(x, y, self.record(lambda: self.inner.body(x, y)))
        except Exception as error:  # whatever a driver or a library objects to: the eager step does the same
            self._give_up(f"a step that can be recorded, got {first_line(error)}")
            return None

    def _give_up(self, cause: str) -> None:
        """Run all further steps eagerly."""
        self.possible = False
        self.log(f"training step: expected {cause}. Going on operation by operation, which is slower.")

    def reset(self) -> None:
        """Set all sums to 0, as an epoch begins: in place, because the recording adds to them there."""
        for total in self.inner.sums.values():
            total.zero_()

    def invalidate(self) -> None:
        """Warm up and record anew."""
        self.inner.invalidate()
        self.recording, self.warmup_steps = None, 0


def capture(device: torch.device, body: Callable[[], None]) -> Callable[[], None]:
    """Capture what a function launches on a GPU, without running it.

    Args:
        device: the GPU.
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
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
            body()
    return graph.replay


def run_on_side_stream(body: Callable[[], None], device: torch.device, *, report_waits: bool) -> str:
    """Run a function on a stream of its own, as a capture's warm-up must; on a CPU, just run it.

    Args:
        body: launches operations.
        device: where.
        report_waits: look for operations that wait for the device.

    Returns:
        The first operation that waits, as torch reports it; "" if none does or none was looked for.
    """
    if device.type != "cuda":
        body()
        return ""
    here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn" if report_waits else "default")
        try:
            body()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    here.wait_stream(side)
    waits = [str(w.message) for w in caught if "called a synchronizing" in str(w.message)]
    return first_line(waits[0]) if report_waits and waits else ""
