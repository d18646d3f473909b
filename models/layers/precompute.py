"""Compute reparametrised weights before the forward pass, in parallel branches of a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from bench.core.torch_state import functorch_active, without_autocast
from bench.models.layers.walk import modules_of

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]

# CUDA streams that the layers of a network share while a graph is being captured.
SIDE_STREAMS = 8


@dataclass(frozen=True, slots=True)
class _Precomputed:
    """A tensor that was computed before the forward pass.

    Attributes:
        tensor: with its graph.
        ready: CUDA event after which it is complete; None: it was computed on the stream that uses it.
    """

    tensor: Tensor
    ready: torch.cuda.Event | None

    def wait(self) -> Tensor:
        """Return the tensor, after making the current stream wait for it."""
        if self.ready is not None:
            current = torch.cuda.current_stream(self.tensor.device)
            current.wait_event(self.ready)
            self.tensor.record_stream(current)
        return self.tensor


class JointWork:
    """What layers of one kind precompute, written out with its gradient, so that a network does all of it at once.

    On small images a step's cost is the number of its operations and of autograd's nodes, not the arithmetic.
    """

    @staticmethod
    def compute(layers: Sequence[Any], sources: Tensors) -> tuple[Tensors, Tensors]:
        """Return what `precompute` of each layer would, bit for bit, and what `pull_back` needs; without a graph.

        Args:
            layers: of this kind.
            sources: the tensor of each.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    @staticmethod
    def pull_back(layers: Sequence[Any], saved: Tensors, grads: Tensors) -> Tensors:
        """Return the gradient in each layer's tensor; while gradients are recorded, differentiable in all given.

        Args:
            layers: those of `compute`.
            saved: its second result.
            grads: of its first.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError


class _Joint(torch.autograd.Function):
    """The joint works of several kinds of layers as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, works: Sequence[tuple[type[JointWork], list[PrecomputedWeight]]], *sources: Tensor
    ) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        kept: list[Tensor] = []
        ctx.parts = []
        for work, layers in works:
            tensors, saved = work.compute(layers, sources[len(found) : len(found) + len(layers)])
            ctx.parts.append((work, layers, len(saved)))
            found += tensors
            kept += saved
        ctx.save_for_backward(*kept)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved: Tensors = ctx.saved_tensors
        found: list[Tensor] = []
        start = 0
        for work, layers, count in ctx.parts:
            own = grads[len(found) : len(found) + len(layers)]
            found += work.pull_back(layers, saved[start : start + count], own)
            start += count
        return None, *found


class PrecomputedWeight(nn.Module):
    """A layer that computes a weight, scale or β in training mode from one of its own tensors, without images.

    A subclass defines `precompute`, and calls `take_precomputed` in its forward pass.

    Attributes:
        precomputed_from: name of that tensor, a parameter or buffer.
        joint: how layers of this kind do it together; None: each by itself.
    """

    precomputed_from: ClassVar[str]
    joint: ClassVar[type[JointWork] | None] = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._precomputed: _Precomputed | None = None

    def precompute(self, source: Tensor) -> Tensor:
        """Return what a forward pass in training mode needs, differentiable in the tensor.

        Args:
            source: the tensor named by `precomputed_from`.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    def take_precomputed(self) -> Tensor:
        """Return what `precomputed` computed for this pass; outside that block, compute it now."""
        earlier = self._precomputed
        if earlier is None:
            return self.precompute(getattr(self, self.precomputed_from))
        self.keep_precomputed(None)
        return earlier.wait()

    def keep_precomputed(self, found: _Precomputed | None) -> None:
        """Store what the next forward pass takes, past nn.Module's own assignment, which takes as long as a kernel.

        Args:
            found: None: nothing.
        """
        self.__dict__["_precomputed"] = found


@contextmanager
def precomputed(network: nn.Module) -> Iterator[None]:
    """Precompute the weights of all layers of a network for the training-mode forward pass inside the block.

    Those are power iterations, normalised weights, scales and β: hundreds of operations too small to fill a GPU, which
    do not depend on one another. While a CUDA graph is being captured, where their launches cost nothing, they and
    their gradients become parallel branches, beside one another and beside the first layers; elsewhere they run one
    after another. Results are bit for bit those of layers that compute their weights in their own forward pass. Does
    nothing in eval mode, nor inside `torch.compile`, which orders operations itself.

        def forward(self, x):
            with precomputed(self):
                return self.head(self.body(x))

    Args:
        network: its `PrecomputedWeight` layers in training mode count; a network inside another may do the same.
    """
    if not network.training or torch.compiler.is_compiling():
        yield
        return
    # Layers that have been computed already belong to an enclosing network that uses this block, too.
    layers = [m for m in modules_of(network, PrecomputedWeight) if m.training and m._precomputed is None]
    try:
        streams = _precompute_all(layers)
        yield
        for stream in streams:  # also those of layers that this pass did not call: a capture must join every stream
            torch.cuda.current_stream(stream.device).wait_stream(stream)
    finally:
        for layer in layers:
            layer.keep_precomputed(None)


def _precompute_all(layers: Sequence[PrecomputedWeight]) -> list[torch.cuda.Stream]:
    """Store with every layer what it precomputes; return the side streams in use."""
    sources = [getattr(layer, layer.precomputed_from) for layer in layers]
    if not layers or not _is_capturing(sources[0]):
        for layer, tensor in zip(layers, joined(layers, sources), strict=True):
            layer.keep_precomputed(_Precomputed(tensor, None))
        return []
    # A view made here keeps the sum of each parameter's gradients on this stream, where the optimiser reads it.
    sources = [source.view_as(source) for source in sources]
    device = sources[0].device
    current, streams = torch.cuda.current_stream(device), [torch.cuda.Stream(device) for _ in layers[:SIDE_STREAMS]]
    for stream in streams:
        stream.wait_stream(current)
    for i, (layer, source) in enumerate(zip(layers, sources, strict=True)):
        stream = streams[i % len(streams)]
        with torch.cuda.stream(stream):
            layer.keep_precomputed(_Precomputed(layer.precompute(source), stream.record_event()))
    return streams


def joined(layers: Sequence[PrecomputedWeight], sources: Sequence[Tensor]) -> list[Tensor]:
    """Return what `precompute` of each layer would, bit for bit, with as few nodes in the graph as there can be.

    Args:
        layers: of any kinds, each once.
        sources: the tensor of each.
    """
    if functorch_active():
        return [layer.precompute(source) for layer, source in zip(layers, sources, strict=True)]
    found: dict[int, Tensor] = {}
    # Apart by whether the tensor is trained, so that no gradient is asked for that nobody takes.
    kinds: dict[bool, dict[type[JointWork], list[int]]] = {True: {}, False: {}}
    for i, (layer, source) in enumerate(zip(layers, sources, strict=True)):
        if layer.joint is None:
            found[i] = layer.precompute(source)
        else:
            kinds[source.requires_grad].setdefault(layer.joint, []).append(i)
    for places in kinds.values():
        if places:
            order = [i for own in places.values() for i in own]
            works = [(work, [layers[i] for i in own]) for work, own in places.items()]
            with without_autocast(sources[order[0]].device):
                tensors = _Joint.apply(works, *[sources[i] for i in order])
            found.update(zip(order, tensors, strict=True))
    return [found[i] for i in range(len(layers))]


def _is_capturing(tensor: Tensor) -> bool:
    """Return whether a CUDA graph is being captured on the current stream of the tensor's device."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
