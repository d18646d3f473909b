"""Sound Lipschitz constants of single operations of an autograd graph: exact norms, or upper bounds by proof."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.models.layers import ConvGeometry, conv_norm_bound
from bench.models.layers.conv_arguments import pair
from bench.numerics.autograd_graph import (
    Node,
    RecordedCalls,
    activation_nodes,
    operation,
    topological_order,
)


def nonaffine_ops(logits: Tensor, calls: RecordedCalls) -> list[str]:
    """Return the operations outside the recorded activations that are not known to be affine, sorted."""
    owned = activation_nodes(calls.activations)
    unknown = set()
    for node in topological_order(logits):
        if node not in owned and operation(node) != "AccumulateGrad":
            try:
                affine_op_norm(node)
            except NotImplementedError:
                unknown.add(operation(node))
    return sorted(unknown)


_SAME = frozenset({
    "View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Slice", "Select",
    "Clone", "ToCopy", "Alias", "Neg", "ConstantPadNd", "Flip", "Roll", "Add", "Sub", "Cat", "Split", "SplitWithSizes",
})  # fmt: skip
_ONE_LIPSCHITZ = frozenset({"Relu", "Hardtanh", "Softplus", "Tanh", "Abs", "Clamp", "ClampMin", "ClampMax"})


def op_lipschitz(node: Node) -> float:
    """Return a sound Lipschitz constant of one operation, from any of its inputs to its output.

    Raises:
        NotImplementedError: none is known.
    """
    name = operation(node)
    if name in _ONE_LIPSCHITZ:
        return 1.0
    if name == "MaxPool2DWithIndices":  # windows that overlap count a pixel several times
        sides = zip(pair(node._saved_kernel_size), pair(node._saved_stride), strict=True)
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in sides))
    return affine_op_norm(node)


def affine_op_norm(node: Node) -> float:
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
        pair(_shape_of_input(node)[-2:]), pair(_shape(node)[-2:]), pair(weight.shape[2:]),
        pair(node._saved_stride), pair(node._saved_padding), pair(node._saved_dilation), node._saved_groups,
    )  # fmt: skip
    return _cached_conv_norm(_Kernel(weight), geometry)


class _Kernel:
    """A kernel as a cache's key: equal where its numbers are."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.cpu()
        self.digest = hashlib.sha256(self.tensor.contiguous().numpy().tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kernel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=128)
def _cached_conv_norm(weight: _Kernel, geometry: ConvGeometry) -> float:
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
    kernel, stride = pair(node._saved_kernel_size), pair(node._saved_stride or node._saved_kernel_size)
    padding, norm = pair(node._saved_padding), 1.0
    for axis, size in enumerate(_shape_of_input(node)[-2:]):
        line = nn.AvgPool1d(
            kernel[axis], stride[axis], padding[axis], node._saved_ceil_mode, node._saved_count_include_pad
        )
        norm *= _pool_norm_1d(size, line)
    return norm


def _adaptive_pool(node: Node) -> float:
    norm = 1.0
    for size, out in zip(_shape_of_input(node)[-2:], _shape(node)[-2:], strict=True):
        norm *= _pool_norm_1d(size, nn.AdaptiveAvgPool1d(out))
    return norm


def _pool_norm_1d(size: int, pool: Callable[[Tensor], Tensor]) -> float:
    """Return the norm of a pooling along one axis; the two-dimensional one is the product of the two."""
    return float(torch.linalg.matrix_norm(pool(torch.eye(size, dtype=torch.float64)[None])[0], 2))


_AFFINE: dict[str, Callable[[Node], float]] = {
    "Convolution": _convolution,
    "ConstantConv2d": _convolution, "Addmm": _matrix, "Mm": _matrix, "NativeBatchNorm": _batch_norm,
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
