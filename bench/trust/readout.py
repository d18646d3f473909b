"""The last linear layer of a network: what goes into it, and the same network with another layer in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from bench.attacks.core.folding import FrozenLayer, fold_constants

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


class Readout:
    """A network and the fully connected layer that decides its predictions.

    Attributes:
        network: in eval mode, images (B, C, H, W) to outputs (B, K).
        layer: one of its layers, features (B, d) to (B, K).
    """

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        """Hold the two; see `find_readout`."""
        self.network, self.layer = network, layer

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, d) and the layer's own output (B, K) for images x (B, C, H, W).

        NaN where the network does without the layer on these images, or calls it on others.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        with _hooked(self.layer, lambda _, given, output: seen.append((given[0], output))):
            self.network(x)
        if seen and len(seen[-1][0]) == len(x):
            return seen[-1]
        weight = self.layer.weight
        assert isinstance(weight, Tensor)  # of a fully connected layer
        classes, size = weight.shape
        return x.new_full((len(x), size), torch.nan), x.new_full((len(x), classes), torch.nan)

    @contextlib.contextmanager
    def replaced(self, function: Callable[[Tensor], Tensor]) -> Iterator[nn.Module]:
        """Put another function of the features (B, d) to (B, K) in the layer's place inside the block."""
        with _hooked(self.layer, lambda _, given, output: function(given[0])):
            yield self.network


def feature_count(model: nn.Module, x: Tensor, passes: int) -> int:
    """Return how many features the last fully connected layer takes that decides; 0 without one. See `find_readout`."""
    found = find_readout(model, x, passes)
    if found is None:
        return 0
    weight = found.layer.weight
    assert isinstance(weight, Tensor)  # of a fully connected layer
    return int(weight.shape[1])


def find_readout(model: nn.Module, x: Tensor, passes: int) -> Readout | None:
    """Return the network, folded if that pays, with its last fully connected layer; None where it has none.

    The layer must decide the prediction: it is called once, with one row per image, and when another class's score is
    put above the others in its output, the network predicts that class. So what follows it (a scale, a softmax) is
    allowed, an average of several heads is not.

    Args:
        model: in eval mode.
        x: a few images (B, C, H, W) to ask with.
        passes: expected per image; see `fold_constants`.
    """
    network = fold_constants(model, x, passes, recorded=False)
    calls: list[nn.Module] = []
    with contextlib.ExitStack() as stack, torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Linear | FrozenLayer):
                stack.enter_context(_hooked(layer, lambda module, given, output: calls.append(module)))
        logits = network(x)
    if not calls or calls.count(calls[-1]) > 1:
        return None
    found = Readout(network, calls[-1])
    features, output = found.run(x)
    if features.ndim != 2 or output.shape != logits.shape:
        return None
    classes = output.shape[1]
    with torch.no_grad():
        for wanted in (torch.arange(len(x), device=x.device) + shift for shift in range(classes)):
            raised = output + (1 + 2 * output.abs().amax()) * F.one_hot(wanted % classes, classes)
            with found.replaced(lambda _, raised=raised: raised) as changed:  # type: ignore[misc]
                if (changed(x).argmax(1) != wanted % classes).any():
                    return None
    return found


@contextlib.contextmanager
def _hooked(layer: nn.Module, hook: Callable[..., object]) -> Iterator[RemovableHandle]:
    """Have a forward hook on a layer inside the block."""
    handle = layer.register_forward_hook(hook)
    try:
        yield handle
    finally:
        handle.remove()
