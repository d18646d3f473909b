"""Read a recorded autograd graph: its activations, their order, what is not smooth and what is not affine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.layers import CenteredSoftplus, Softplus

Node = Any  # torch.autograd.graph.Node with its `_saved_*` attributes
# Elementwise, twice differentiable modules; those of the softplus family know their β (s' ≤ 1, s'' ≤ β/4).
SOFTPLUS = (CenteredSoftplus, Softplus, nn.Softplus)
SMOOTH = (*SOFTPLUS, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.SiLU, nn.GELU, nn.Mish)
NONSMOOTH_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Threshold, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.FractionalMaxPool2d,
)  # fmt: skip
NONSMOOTH_OPS = frozenset({
    "Relu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Elu", "Celu", "Hardtanh", "Hardsigmoid", "Hardswish",
    "Hardshrink", "Softshrink", "Threshold", "MaxPool2DWithIndices", "MaxPool3DWithIndices",
    "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "FractionalMaxPool2D", "MkldnnMaxPool2D", "Abs", "Clamp",
    "ClampMin", "ClampMax", "Max", "Min", "Maximum", "Minimum", "Amax", "Amin", "Aminmax", "Fmax", "Fmin",
    "Cummax", "Cummin", "Sort", "Topk", "Kthvalue", "Median", "Nanmedian", "Mode", "Round", "Floor", "Ceil",
    "Trunc", "Frac", "Fmod", "Remainder", "Sign", "Where", "SmoothL1Loss", "HuberLoss", "LinalgVectorNorm",
    "Norm",
})  # fmt: skip


@dataclass(frozen=True)
class Activation:
    """One call of an elementwise module: z = `before` went in, a = `after` came out, both with their graph."""

    module: nn.Module
    before: Tensor
    after: Tensor

    @property
    def beta(self) -> float | None:
        """β of the softplus family, None for others."""
        return float(torch.as_tensor(self.module.beta).detach()) if isinstance(self.module, SOFTPLUS) else None

    def value(self, z: Tensor) -> Tensor:
        """Apply the activation to other inputs, without being recorded."""
        return self.module.forward(z)

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """Return s'(z) and s''(z) elementwise, shaped like z."""
        return derivatives(self.value, self.before)


def derivatives(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return s'(z) and s''(z) of an elementwise function s, shaped like z, detached."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if not first.requires_grad:
            return first.detach(), torch.zeros_like(z)
        (second,) = torch.autograd.grad(first.sum(), z)
    return first.detach(), second


@dataclass(frozen=True)
class RecordedCalls:
    """What was called during one forward pass, in order."""

    activations: list[Activation] = field(default_factory=list)
    nonsmooth: list[str] = field(default_factory=list)


@contextmanager
def record_activations(model: nn.Module) -> Iterator[RecordedCalls]:
    """Record the activations and nonsmooth modules that a forward pass calls inside the block."""
    calls, handles = RecordedCalls(), []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, SMOOTH):
            calls.activations.append(Activation(module, inputs[0], output))
        else:
            calls.nonsmooth.append(type(module).__name__)

    for module in model.modules():
        if isinstance(module, SMOOTH + NONSMOOTH_MODULES):
            handles.append(module.register_forward_hook(note))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def operation(node: Node) -> str:
    """Return a node's operation: "ConvolutionBackward0" → "Convolution"."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def topological_order(*outputs: Tensor) -> list[Node]:
    """Return all nodes behind the outputs, every node after those that it takes its inputs from."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(t.grad_fn, False) for t in outputs if t.grad_fn is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.next_functions if parent is not None]
    return order


def activation_nodes(activations: list[Activation]) -> dict[Node, Activation]:
    """Return the nodes that belong to an activation: from its output back to its input, the latter left out."""
    owned: dict[Node, Activation] = {}
    for activation in activations:
        stack = [activation.after.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node is activation.before.grad_fn or node in owned:
                continue
            if operation(node) == "AccumulateGrad":
                continue
            owned[node] = activation
            stack += [parent for parent, _ in node.next_functions]
    return owned


def nonsmooth_ops(logits: Tensor, calls: RecordedCalls) -> list[str]:
    """Return the operations that are not twice differentiable, sorted; a model with any is not assessable.

    Operations are recognised by name in the graph, modules by class. A kink inside an opaque custom function
    is not seen; the fundamental-theorem check of the `bounds` evaluation is there for that.
    """
    names = {operation(node) for node in topological_order(logits)}
    return sorted((names & NONSMOOTH_OPS) or set(calls.nonsmooth))
