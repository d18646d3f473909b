"""A search's passes as CUDA graphs: on a GPU, small batches take as long as the launches of their operations.

A folded ResNet-18 of the LCNN family launches some 300 operations per pass; of 5,000 queries on twenty images the GPU
computes in a small part of the time. Recorded once for a shape that keeps coming, a pass is one launch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MIN_CALLS: Final = 20  # passes of one shape before it is recorded: a recording costs about as much
# Modules whose forward is torch's or ours: what others do in Python at each call would be frozen in a recording.
KNOWN: Final = ("torch.nn.modules.", "torch.fx.", "bench.models.", "bench.attacks.core.folding")

Function: TypeAlias = Callable[[Tensor], Tensor]


@dataclass
class Recording:
    """The pass of one shape, recorded.

    Attributes:
        x: where it reads the images.
        logits: where it writes the logits.
        forward: launches it.
        seed: where the backward pass reads the gradient with respect to the logits; None: it was not recorded.
        gradient: where it writes the gradient with respect to the images.
        backward: launches it.
        number: counts the forward passes: a backward pass must follow its own.
    """

    x: Tensor
    logits: Tensor
    forward: Callable[[], None]
    seed: Tensor | None = None
    gradient: Tensor | None = None
    backward: Callable[[], None] | None = None
    number: int = 0

    def run(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x of the recorded shape."""
        self.number += 1
        self.x.copy_(x)
        self.forward()
        return self.logits.clone()


class _Replayed(torch.autograd.Function):
    """A recorded pass with its recorded derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recording: Recording) -> Tensor:
        """Return the logits."""
        logits = recording.run(x)
        ctx.recording, ctx.number = recording, recording.number
        return logits

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, seed: Tensor) -> tuple[Tensor, None]:
        """Return the gradient with respect to the images."""
        recording = ctx.recording
        if recording.number != ctx.number:
            raise RuntimeError("a recorded pass: expected its backward pass before the next forward pass.")
        recording.seed.copy_(seed)
        recording.backward()
        return recording.gradient.clone(), None


class Replay:
    """A network's forward that records the shapes that keep coming, and computes the others as it always did.

    With gradients and without are two kinds; of each the last recorded shape is kept.

    Args:
        function: the forward.
        record: returns the recording of a pass on images like x, with its backward pass or without.
    """

    def __init__(self, function: Function, record: Callable[[Function, Tensor, bool], Recording]) -> None:
        self._function, self._record = function, record
        self._calls: Counter[tuple[torch.Size, bool]] = Counter()
        self._kept: dict[bool, Recording] = {}
        self._possible = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        differentiable = torch.is_grad_enabled() and x.requires_grad
        recording = self._recording(x, differentiable)
        if recording is None:
            return self._function(x)
        return _Replayed.apply(x, recording) if differentiable else recording.run(x)  # type: ignore[no-any-return]

    def _recording(self, x: Tensor, differentiable: bool) -> Recording | None:
        """Return the recording for images like x; None where there is none (yet)."""
        kept = self._kept.get(differentiable)
        if kept is not None and kept.x.shape == x.shape:
            return kept
        self._calls[x.shape, differentiable] += 1
        if not self._possible or self._calls[x.shape, differentiable] <= MIN_CALLS:
            return None
        try:
            self._kept.pop(differentiable, None)
            self._calls[x.shape, differentiable] = 0  # shapes that take turns are not recorded at every turn
            self._kept[differentiable] = self._record(self._function, x.detach(), differentiable)
        except Exception:  # whatever a driver or a library objects to, memory included: the plain pass does the same
            self._possible = False
            return None
        return self._kept[differentiable]


def only_known_layers(model: nn.Module) -> bool:
    """Return whether all layers of a folded network are torch's or ours: a recording does all that they do."""
    return all(type(layer).__module__.startswith(KNOWN) for layer in model.modules())


def record_on_gpu(function: Function, x: Tensor, differentiable: bool) -> Recording:
    """Record a pass on images like x (B, C, H, W), with its backward pass or without.

    Args:
        function: images to logits (B, K).
        x: images on a GPU, without a graph.
        differentiable: record the gradient with respect to the images, too.

    Returns:
        The recording.
    """
    here, side = torch.cuda.current_stream(x.device), torch.cuda.Stream(x.device)
    side.wait_stream(here)
    with torch.cuda.stream(side), torch.set_grad_enabled(differentiable):
        images = x.clone().requires_grad_(differentiable)
        logits = function(images)  # the libraries reserve what they need before the capture
        if differentiable:
            torch.autograd.grad(logits, images, torch.ones_like(logits))
        seed = torch.ones_like(logits)
        forward = torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, stream=side, capture_error_mode="thread_local"):
            logits = function(images)
        recording = Recording(images.detach(), logits.detach(), forward.replay)
        if differentiable:
            backward = torch.cuda.CUDAGraph()
            with torch.cuda.graph(backward, pool=forward.pool(), stream=side, capture_error_mode="thread_local"):
                (gradient,) = torch.autograd.grad(logits, images, seed)
            recording.seed, recording.gradient, recording.backward = seed.detach(), gradient, backward.replay
    here.wait_stream(side)
    return recording
