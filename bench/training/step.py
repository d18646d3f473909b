"""One training step, carried out eagerly, as one CUDA graph, or compiled: the same arithmetic, fewer launches.

A step never waits for the device: what the log of an epoch needs is summed there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.training.compiled import CompiledGradients
from bench.training.gradients import Autocast, Gradients, Log, Loss, eager_gradients, first_line

CAPTURE_WARMUP_STEPS = (
    3  # eager steps before a capture: the libraries choose their algorithms and reserve their memory in them
)


class EagerStep:
    """A step operation by operation: loss, gradients, optimiser, sums of the epoch.

    Args:
        model: in training mode.
        optimizer: its groups' learning rate is set in every step.
        gradients: puts the gradients of a batch into the parameters and returns the loss terms and the logits of
            the first forward pass (None: unknown).
        sums: name to float64 total on the device, added to in place: `term:<name>` and `correct`.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Gradients, sums: dict[str, Tensor]
    ) -> None:
        self.model, self.optimizer, self.gradients, self.sums = model, optimizer, gradients, sums

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.body(x, y)

    def body(self, x: Tensor, y: Tensor) -> None:
        """Do all of a step that happens on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        terms, logits = self.gradients(x, y)
        self.optimizer.step()
        if logits is not None and len(logits) == len(y):
            correct = (logits.argmax(1) == y).sum()
        else:
            correct = torch.full((), math.nan, device=y.device)
        for name, value in {**{f"term:{k}": v * len(y) for k, v in terms.items()}, "correct": correct}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=y.device)
            self.sums[name].add_(value)

    def reset(self) -> None:
        """Begin an epoch: all sums are 0."""
        self.sums.clear()

    def forget(self) -> None:
        """Note that a number which the model or its loss keeps in Python has changed."""
        if isinstance(self.gradients, CompiledGradients):
            self.gradients.forget()


class CudaGraphStep(EagerStep):
    """The same step recorded once over buffers that stay in place, and then replayed; other batch sizes run eagerly.

    The first steps run eagerly, the last of them under torch's watch: a step that waits for the device cannot be
    recorded. What Python does in a step (a number computed from the epoch, a branch) is frozen in the recording
    until `forget`.

    Args:
        record: runs a function once, or only notes what it would do, and returns what does it again.
        size: images of a batch that is worth recording.
        say: told once if there will be no recording.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, gradients: Gradients, sums: dict[str, Tensor],
        *, size: int, say: Log, record: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:  # fmt: skip
        super().__init__(model, optimizer, gradients, sums)
        self.size, self.say, self.record = size, say, record
        self.lr = torch.zeros((), device=next(model.parameters()).device)
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        self.warm, self.possible = 0, True
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on x (B, C, H, W), y (B,) with a learning rate."""
        self.lr.fill_(lr)
        if not self.possible or len(x) != self.size:
            self.body(x, y)
        elif self.warm < CAPTURE_WARMUP_STEPS:
            self.warm += 1
            if waits := _beside(lambda: self.body(x, y), x.device, watch=self.warm == CAPTURE_WARMUP_STEPS):
                self._give_up(f"a step that never waits for the device, got one that does ({waits})")
        elif self.replay is None and not self._recorded(x, y):
            self.body(x, y)
        else:
            self.x.copy_(x)
            self.y.copy_(y)
            assert self.replay is not None  # narrows the type: recorded just now or before
            self.replay()

    def _recorded(self, x: Tensor, y: Tensor) -> bool:
        self.x, self.y = x.clone(), y.clone()
        try:
            self.replay = self.record(lambda: self.body(self.x, self.y))
        except Exception as error:  # whatever a driver or a library objects to: the eager step does the same
            self._give_up(f"a step that can be recorded, got {first_line(error)}")
        return self.replay is not None

    def _give_up(self, cause: str) -> None:
        self.possible = False
        self.say(f"training step: expected {cause}. Going on operation by operation, which is slower.")

    def reset(self) -> None:
        """Begin an epoch: all sums are 0, in place, because the recording adds to them there."""
        for total in self.sums.values():
            total.zero_()

    def forget(self) -> None:
        """Warm up and record anew."""
        super().forget()
        self.replay, self.warm = None, 0


def make_step(
    route: str, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, sums: dict[str, Tensor],
    *, autocast: Autocast, size: int, say: Log,
) -> EagerStep:  # fmt: skip
    """Return a training step.

    Args:
        route: "eager", "graph" (needs a GPU; one line and "eager" without) or "compile" (on a GPU also recorded).
        model, optimizer, sums: see `Eager`.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
        size: images of a full batch.
        say: told, in one line, of a route that is not available.
    """
    gradients = eager_gradients(model, loss, autocast)
    if route == "compile":
        gradients = CompiledGradients(model, loss, autocast, size=size, say=say)
    device = next(model.parameters()).device
    if route == "eager" or device.type != "cuda":
        if route == "graph":
            say(f"training step: expected a GPU to record it on, got {device.type}. Going on operation by operation.")
        return EagerStep(model, optimizer, gradients, sums)
    return CudaGraphStep(model, optimizer, gradients, sums, size=size, say=say, record=partial(cuda_graph, device))


def cuda_graph(device: torch.device, body: Callable[[], None]) -> Callable[[], None]:
    """Capture what a function launches on a GPU, without running it, and return what launches it all at once.

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


def _beside(body: Callable[[], None], device: torch.device, *, watch: bool) -> str:
    """Run a function on a stream of its own, as a capture's warm-up must; return how it waits, "" if it does not."""
    if device.type != "cuda":
        body()
        return ""
    here, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn" if watch else "default")
        try:
            body()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    here.wait_stream(side)
    waits = [str(w.message) for w in caught if "called a synchronizing" in str(w.message)]
    return first_line(waits[0]) if watch and waits else ""
