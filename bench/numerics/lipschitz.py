"""Sound gains of the affine parts of a network between its activations: Lipschitz constants by proof."""

from __future__ import annotations

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.layers import ConvGeometry, conv_norm_bound
from bench.numerics.autograd_graph import (
    SOFTPLUS,
    Activation,
    Calls,
    Node,
    activation_nodes,
    operation,
    topological_order,
)


def nonaffine_ops(logits: Tensor, calls: Calls) -> list[str]:
    """Return the operations outside the recorded activations that are not known to be affine, sorted."""
    owned = activation_nodes(calls.activations)
    unknown = set()
    for node in topological_order(logits):
        if node not in owned and operation(node) != "AccumulateGrad":
            try:
                _affine_gain(node)
            except NotImplementedError:
                unknown.add(operation(node))
    return sorted(unknown)


_SAME = frozenset({
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Slice", "Select",
    "Clone", "ToCopy", "Alias", "Neg", "ConstantPadNd", "Flip", "Roll", "Add", "Sub", "Cat", "Split", "SplitWithSizes",
})  # fmt: skip
_ONE_LIPSCHITZ = frozenset({"Relu", "Hardtanh", "Softplus", "Tanh", "Abs", "Clamp", "ClampMin", "ClampMax"})


def gain(node: Node) -> float:
    """Return a sound Lipschitz constant of one operation, from any of its inputs to its output.

    Raises:
        NotImplementedError: none is known.
    """
    name = operation(node)
    if name in _ONE_LIPSCHITZ:
        return 1.0
    if name == "MaxPool2DWithIndices":  # windows that overlap count a pixel several times
        sides = zip(_two(node._saved_kernel_size), _two(node._saved_stride), strict=True)
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in sides))
    return _affine_gain(node)


def _affine_gain(node: Node) -> float:
    """Return the norm of an affine operation (an upper bound).

    Raises:
        NotImplementedError: the operation is not known to be affine in its differentiable inputs.
    """
    name = operation(node)
    if name in _SAME:
        return max(1.0, abs(float(getattr(node, "_saved_alpha", 1))))
    if name in ("Mul", "Div") and sum(parent is not None for parent, _ in node.next_functions) == 1:
        return _scaling(node)
    if name in _AFFINE:
        return _AFFINE[name](node)
    raise NotImplementedError(name)


def _scaling(node: Node) -> float:
    """Return the largest factor of a product with, or quotient by, a constant."""
    other = node._saved_other if node.next_functions[0][0] is not None else node._saved_self
    if operation(node) == "Div":
        if node.next_functions[0][0] is None:
            raise NotImplementedError("constant / variable")
        return float(1 / other.detach().abs().double().min())
    return float(other.detach().abs().double().max())


def _convolution(node: Node) -> float:
    if node._saved_transposed or len(node._saved_stride) != 2:
        raise NotImplementedError("transposed or not two-dimensional convolution")
    weight = node._saved_weight.detach()
    geometry = ConvGeometry(
        _two(_shape_of_input(node)[-2:]), _two(_shape(node)[-2:]), _two(weight.shape[2:]),
        _two(node._saved_stride), _two(node._saved_padding), _two(node._saved_dilation), node._saved_groups,
    )  # fmt: skip
    return _sound_norm(Weight(weight), geometry)


class Weight:
    """A kernel as a cache's key: equal where its numbers are."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.cpu()
        self.digest = hashlib.sha256(self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weight) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=128)
def _sound_norm(weight: Weight, geometry: ConvGeometry) -> float:
    """Return the convolution's norm from above; a wide ResNet's take the better part of a minute."""
    return conv_norm_bound(weight.tensor, geometry)


def _matrix(node: Node) -> float:
    if node.next_functions[-1][0] is not None:
        raise NotImplementedError("product of two variables")
    factor = abs(float(getattr(node, "_saved_alpha", 1)))
    return factor * float(torch.linalg.matrix_norm(node._saved_mat2.detach().double(), 2))


def _batch_norm(node: Node) -> float:
    if node._saved_training:
        raise NotImplementedError("batch norm in training mode")
    weight = 1.0 if node._saved_weight is None else node._saved_weight.detach().double().abs()
    return float((weight / (node._saved_running_var.double() + node._saved_eps).sqrt()).max())


def _mean(node: Node) -> float:
    return math.sqrt(math.prod(_shape(node)) / math.prod(_shape_of_input(node)))


def _sum(node: Node) -> float:
    return math.sqrt(math.prod(_shape_of_input(node)) / math.prod(_shape(node)))


def _average_pool(node: Node) -> float:
    if node._saved_divisor_override is not None:
        raise NotImplementedError("average pool with another divisor")
    kernel, stride = _two(node._saved_kernel_size), _two(node._saved_stride or node._saved_kernel_size)
    padding, norm = _two(node._saved_padding), 1.0
    for axis, size in enumerate(_shape_of_input(node)[-2:]):
        line = nn.AvgPool1d(
            kernel[axis], stride[axis], padding[axis], node._saved_ceil_mode, node._saved_count_include_pad
        )
        norm *= _norm_of_line(size, line)
    return norm


def _adaptive_pool(node: Node) -> float:
    norm = 1.0
    for size, out in zip(_shape_of_input(node)[-2:], _shape(node)[-2:], strict=True):
        norm *= _norm_of_line(size, nn.AdaptiveAvgPool1d(out))
    return norm


def _norm_of_line(size: int, pool: Callable[[Tensor], Tensor]) -> float:
    """Return the norm of a pooling along one axis; the two-dimensional one is the product of the two."""
    return float(torch.linalg.matrix_norm(pool(torch.eye(size, dtype=torch.float64)[None])[0], 2))


_AFFINE: dict[str, Callable[[Node], float]] = {
    "Convolution": _convolution, "Addmm": _matrix, "Mm": _matrix, "NativeBatchNorm": _batch_norm,
    "CudnnBatchNorm": _batch_norm, "Mean": _mean, "Sum": _sum, "AvgPool2D": _average_pool,
    "AdaptiveAvgPool2D": _adaptive_pool,
}  # fmt: skip


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(node._input_metadata[0].shape)


def _shape_of_input(node: Node) -> tuple[int, ...]:
    parent, index = node.next_functions[0]
    if operation(parent) == "AccumulateGrad":
        return tuple(parent.variable.shape)
    return tuple(parent._input_metadata[index].shape)


def _two(values: Any) -> tuple[int, int]:
    values = tuple(values)
    return (values[0], values[-1])


@dataclass(frozen=True)
class Gains:
    """Data-free Lipschitz constants of a network at one image size.

    Attributes:
        order: the graph's nodes, inputs first.
        local: node → constant of its operation.
        owned: the nodes inside activations of the softplus family (slope ≤ 1).
    """

    order: list[Node]
    local: dict[Node, float]
    owned: dict[Node, Activation]

    def into(self, slopes: dict[Node, float] | None = None) -> dict[Node, float]:
        """Return, for every node, the constant of the map from the image to its output.

        Sums add, concatenations add in squares. Inside an activation s(z) + constant and the like are one map,
        of which the largest input counts.

        Args:
            slopes: activation outputs' nodes to the largest slope at an image, where that is known.
        """
        result: dict[Node, float] = {}
        for node in self.order:
            inputs = [result[p] for p, _ in node.next_functions if p is not None] or [1.0]
            if node in self.owned:
                joined = max(inputs) * (slopes or {}).get(node, 1.0)
            else:
                joined = math.hypot(*inputs) if operation(node) == "Cat" else sum(inputs)
            result[node] = self.local[node] * joined
        return result

    def onward(self) -> dict[Node, float]:
        """Return, for every node, the constant of the map from its output to the logits."""
        result: dict[Node, float] = defaultdict(float, {self.order[-1]: 1.0})
        for node in reversed(self.order):
            parents = [p for p, _ in node.next_functions if p is not None]
            for parent in set(parents):
                times = 1 if node in self.owned else parents.count(parent)
                result[parent] += times * self.local[node] * result[node]
        return dict(result)

    def last_matrix(self) -> tuple[Node, Tensor] | None:
        """Return the node of the features and the matrix W (K, features) behind them; None without one."""
        last = self.order[-1]
        if operation(last) not in ("Addmm", "Mm"):
            return None
        features = next(p for p, _ in last.next_functions if p is not None)
        return features, last._saved_mat2.detach().T


def gains(logits: Tensor, activations: list[Activation]) -> Gains:
    """Return the gains of all operations behind the logits.

    Raises:
        NotImplementedError: an operation's gain is not known; its name.
    """
    owned = activation_nodes([a for a in activations if isinstance(a.module, SOFTPLUS)])
    order = topological_order(logits)
    local = {n: 1.0 if n in owned or operation(n) == "AccumulateGrad" else gain(n) for n in order}
    return Gains(order, local, owned)
