"""Read an autograd graph: its operations in topological order, its activations, and what is not smooth in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.numerics.smoothness import NONSMOOTH_MODULES, NONSMOOTH_OPS, SMOOTH, SOFTPLUS

Node = Any  # torch.autograd.graph.Node with its `_saved_*` attributes


@dataclass(frozen=True)
class Activation:
    """One call of an elementwise module, a = s(z).

    Attributes:
        module: s.
        before: z, with its graph.
        after: a, with its graph, shaped like z.
        source: the node that made z, None for a leaf.
    """

    module: nn.Module
    before: Tensor
    after: Tensor
    source: Node | None

    @property
    def beta(self) -> float | None:
        """β of the softplus family as the activation has it, None for others."""
        if not isinstance(self.module, SOFTPLUS):
            return None
        beta = self.module.beta
        return float(beta.detach() if isinstance(beta, Tensor) else beta)

    def value(self, z: Tensor) -> Tensor:
        """Return s(z) of other inputs, without recording the call."""
        return self.module.forward(z.clone() if getattr(self.module, "inplace", False) else z)

    def derivatives(self) -> tuple[Tensor, Tensor]:
        """Return s'(z) and s''(z) elementwise, shaped like z."""
        return derivatives(self.value, self.before)


def derivatives(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return s'(z) and s''(z) of an elementwise function s, shaped like z, detached.

    Args:
        function: s.
        z: any shape.
    """
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
        if not first.requires_grad:
            return first.detach(), torch.zeros_like(z)
        (second,) = torch.autograd.grad(first.sum(), z)
    return first.detach(), second


@dataclass(frozen=True)
class RecordedCalls:
    """What was called during one forward pass, in order.

    Attributes:
        activations: calls of smooth elementwise modules.
        nonsmooth: class names of the nonsmooth modules called.
    """

    activations: list[Activation] = field(default_factory=list)
    nonsmooth: list[str] = field(default_factory=list)


@contextmanager
def record_activations(model: nn.Module) -> Iterator[RecordedCalls]:
    """Record the activations and nonsmooth modules that a forward pass calls inside the block.

    Args:
        model: any network; hooks are added to it, and removed at the end of the block.

    Yields:
        The calls, filled in during the forward pass.
    """
    calls, handles = RecordedCalls(), []
    kept: dict[nn.Module, tuple[Tensor, Node | None]] = {}  # z and its node, of activations that edit their input

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept[module] = inputs[0].clone(), inputs[0].grad_fn

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, SMOOTH):
            before, source = kept.pop(module, None) or (inputs[0], inputs[0].grad_fn)
            calls.activations.append(Activation(module, before, output, source))
        else:
            calls.nonsmooth.append(type(module).__name__)

    for module in model.modules():
        if isinstance(module, SMOOTH + NONSMOOTH_MODULES):
            handles.append(module.register_forward_hook(record))
        if isinstance(module, SMOOTH) and getattr(module, "inplace", False):
            handles.append(module.register_forward_pre_hook(keep))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def operation(node: Node) -> str:
    """Return a node's operation: "ConvolutionBackward0" → "Convolution"."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def topological_order(*outputs: Tensor) -> list[Node]:
    """Return all nodes behind the outputs, every node after those of its inputs.

    Args:
        outputs: tensors with their graphs.
    """
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
    """Return the nodes that belong to an activation: from its output back to its input, the latter left out.

    Args:
        activations: of one forward pass, in order.
    """
    nodes: dict[Node, Activation] = {}
    for activation in activations:
        stack = [activation.after.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node is activation.source or node in nodes:
                continue
            if operation(node) == "AccumulateGrad":
                continue
            nodes[node] = activation
            stack += [parent for parent, _ in node.next_functions]
    return nodes


def nonsmooth_ops(logits: Tensor, calls: RecordedCalls) -> list[str]:
    """Return the operations that are not twice differentiable, sorted; a model with any is not assessable.

    Operations are recognised by name in the graph, modules by class. A nonsmooth operation inside a custom function
    is not recognised; the fundamental-theorem check of the `bounds` evaluation finds it.

    Args:
        logits: with their graph.
        calls: of the forward pass that made them.
    """
    names = {operation(node) for node in topological_order(logits)}
    return sorted((names & NONSMOOTH_OPS) or set(calls.nonsmooth))
