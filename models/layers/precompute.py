"""What a layer computes from its parameter alone, made before the images reach it, as branches of a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# Side streams that the layers of a network share while a CUDA graph is being captured.
SIDE_STREAMS = 8


@dataclass(frozen=True, slots=True)
class _Precomputed:
    """A tensor made ahead, and what says on another stream that it is ready; None: it is on the layer's own."""

    tensor: Tensor
    ready: Any

    def take(self) -> Tensor:
        """Have the current stream wait for the tensor, and return it."""
        if self.ready is not None:
            here = torch.cuda.current_stream(self.tensor.device)
            here.wait_event(self.ready)
            self.tensor.record_stream(here)
        return self.tensor


class PrecomputedWeight(nn.Module):
    """A layer part of whose work in training mode needs one of its own tensors and no images.

    It defines `precompute`, and takes the result in its forward pass from `take_precomputed`.
    """

    precomputed_from: ClassVar[str]  # name of that tensor, a parameter or buffer

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._precomputed: _Precomputed | None = None

    def precompute(self, source: Tensor) -> Tensor:
        """Return what a forward pass in training mode needs of the tensor, with its gradient in it."""
        raise NotImplementedError

    def take_precomputed(self) -> Tensor:
        """Return what `precomputed` has left for this pass, or else make it now."""
        made, self._precomputed = self._precomputed, None
        return self.precompute(getattr(self, self.precomputed_from)) if made is None else made.take()


@contextmanager
def precomputed(network: nn.Module) -> Iterator[None]:
    """Begin a training-mode forward pass with what the network's layers can make without images.

    Those are power iterations, normalised weights, scales and slopes: hundreds of operations too small to fill a
    GPU, none of which waits for another layer's. While a CUDA graph is being captured, where their launches cost
    nothing, they and their gradients become branches of their own, beside one another and beside the first layers;
    elsewhere they run one after another. The numbers are those of layers left to themselves, bit for bit. Does
    nothing in eval mode, nor inside `torch.compile`, which orders operations itself.

        def forward(self, x):
            with precomputed(self):
                return self.head(self.body(x))
    """
    if not network.training or torch.compiler.is_compiling():
        yield
        return
    # Those that have theirs already belong to a network around this one.
    layers = [
        m for m in network.modules() if isinstance(m, PrecomputedWeight) and m.training and m._precomputed is None
    ]
    try:
        streams = _precompute_all(layers)
        yield
        for stream in streams:  # also those of layers that this pass did not come by: a capture leaves none open
            torch.cuda.current_stream(stream.device).wait_stream(stream)
    finally:
        for layer in layers:
            layer._precomputed = None


def _precompute_all(layers: Sequence[PrecomputedWeight]) -> list[Any]:
    """Leave with every layer what it prepares; return the side streams in use."""
    # A view made here keeps the sum of each parameter's gradients on this stream, where the optimiser reads it.
    sources = [(tensor := getattr(layer, layer.precomputed_from)).view_as(tensor) for layer in layers]
    if not layers or not _is_capturing(sources[0]):
        for layer, source in zip(layers, sources, strict=True):
            layer._precomputed = _Precomputed(layer.precompute(source), None)
        return []
    device = sources[0].device
    here, streams = torch.cuda.current_stream(device), [torch.cuda.Stream(device) for _ in layers[:SIDE_STREAMS]]
    for stream in streams:
        stream.wait_stream(here)
    for i, (layer, source) in enumerate(zip(layers, sources, strict=True)):
        stream = streams[i % len(streams)]
        with torch.cuda.stream(stream):
            layer._precomputed = _Precomputed(layer.precompute(source), stream.record_event())
    return streams


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
