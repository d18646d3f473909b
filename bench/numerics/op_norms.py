"""Sound Lipschitz constants of single operations of an autograd graph: exact norms, or upper bounds by proof.

Power iteration and Lanczos err low and are not used here. An operation that is not in the tables raises
NotImplementedError: its constant is unknown, never guessed. docs/theory.md, section 6.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from bench.models.layers import ConvGeometry, conv_norm_bound
from bench.models.layers.conv_arguments import pair
from bench.numerics.autograd_graph import Node, RecordedCalls, activation_nodes, operation, topological_order

# Affine operations that move, copy, select, add or negate: norm 1, times the factor `alpha` of a sum.
UNIT_NORM: Final = frozenset(
    [
        "Add",
        "Alias",
        "Cat",
        "Clone",
        "ConstantPadNd",
        "Flip",
        "Neg",
        "Permute",
        "PixelUnshuffle",
        "ReshapeAlias",
        "Roll",
        "Select",
        "Slice",
        "Split",
        "SplitWithSizes",
        "Squeeze",
        "Sub",
        "T",
        "ToCopy",
        "Transpose",
        "Unsqueeze",
        "UnsafeView",
        "View",
    ]
)
# Operations that are not affine, with derivatives of at most 1 in size.
ONE_LIPSCHITZ: Final = frozenset(
    ["Abs", "Clamp", "ClampMax", "ClampMin", "Hardtanh", "Relu", "Softplus", "Sort", "Tanh"]
)


def nonaffine_ops(logits: Tensor, calls: RecordedCalls) -> list[str]:
    """Return the operations outside the recorded activations that are not known to be affine, sorted.

    Args:
        logits: with their graph.
        calls: of the forward pass that made them.
    """
    activations = activation_nodes(calls.activations)
    unknown = set()
    for node in topological_order(logits):
        if node not in activations and operation(node) != "AccumulateGrad":
            try:
                affine_op_norm(node)
            except NotImplementedError:
                unknown.add(operation(node))
    return sorted(unknown)


def op_lipschitz(node: Node) -> float:
    """Return a sound Lipschitz constant of one operation, from any of its inputs to its output.

    Args:
        node: of an autograd graph, with what it saved.

    Raises:
        NotImplementedError: none is known.
    """
    name = operation(node)
    if name in ONE_LIPSCHITZ:
        return 1.0
    if name == "MaxPool2DWithIndices":  # windows that overlap count a pixel several times
        sides = zip(pair(node._saved_kernel_size), pair(node._saved_stride), strict=True)
        return math.sqrt(math.prod(math.ceil(k / s) for k, s in sides))
    return affine_op_norm(node)


def affine_op_norm(node: Node) -> float:
    """Return the spectral norm of an affine operation, or an upper bound of it.

    Args:
        node: of an autograd graph, with what it saved.

    Raises:
        NotImplementedError: the operation is not known to be affine in its differentiable inputs.
    """
    name = operation(node)
    if name in UNIT_NORM:
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
    """Return the Fourier bound of a zero-padded two-dimensional convolution."""
    if node._saved_transposed or len(node._saved_stride) != 2:
        raise NotImplementedError("transposed or not two-dimensional convolution")
    weight = node._saved_weight.detach()
    geometry = ConvGeometry(
        in_size=pair(_input_shape(node)[-2:]),
        out_size=pair(_output_shape(node)[-2:]),
        kernel=pair(weight.shape[2:]),
        stride=pair(node._saved_stride),
        padding=pair(node._saved_padding),
        dilation=pair(node._saved_dilation),
        groups=node._saved_groups,
    )
    return _cached_conv_norm(_Kernel(weight), geometry)


def _spectral_convolution(node: Node) -> float:
    """Return the largest norm of a circular convolution's matrices, one per frequency (`CayleyConv2d`)."""
    (spectrum,) = node.saved_tensors
    return float(torch.linalg.matrix_norm(spectrum.detach().to(torch.complex128), 2).max()) * (1 + 1e-12)


class _Kernel:
    """A convolution's weight as a cache's key: equal where its numbers are."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor: Tensor | None = tensor
        self.digest = hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()

    def take(self) -> Tensor:
        """Return the numbers, once: the key that stays in the cache holds no memory of the device."""
        tensor, self._tensor = self._tensor, None
        assert tensor is not None
        return tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kernel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@functools.lru_cache(maxsize=128)
def _cached_conv_norm(weight: _Kernel, geometry: ConvGeometry) -> float:
    """Return the convolution's norm from above; those of a wide ResNet take the better part of a minute."""
    return conv_norm_bound(weight.take(), geometry)


def _matrix(node: Node) -> float:
    """Return the spectral norm of a constant matrix that multiplies, from its singular values."""
    if node.next_functions[-1][0] is not None:
        raise NotImplementedError("product of two variables")
    factor = abs(float(getattr(node, "_saved_alpha", 1)))
    return factor * float(torch.linalg.matrix_norm(node._saved_mat2.detach().double(), 2))


def _batch_norm(node: Node) -> float:
    """Return max_c |w_c|/√(running variance_c + eps)."""
    if node._saved_training:
        raise NotImplementedError("batch norm in training mode")
    weight = 1.0 if node._saved_weight is None else node._saved_weight.detach().double().abs()
    return float((weight / (node._saved_running_var.double() + node._saved_eps).sqrt()).max())


def _mean(node: Node) -> float:
    """Return √(outputs/inputs): the norm of a mean over n numbers is 1/√n."""
    return math.sqrt(math.prod(_output_shape(node)) / math.prod(_input_shape(node)))


def _sum(node: Node) -> float:
    """Return √(inputs/outputs): the norm of a sum over n numbers is √n."""
    return math.sqrt(math.prod(_input_shape(node)) / math.prod(_output_shape(node)))


def _average_pool(node: Node) -> float:
    """Return the norm of an average pool, the product of its norms along the two axes."""
    if node._saved_divisor_override is not None:
        raise NotImplementedError("average pool with another divisor")
    kernel, stride = pair(node._saved_kernel_size), pair(node._saved_stride or node._saved_kernel_size)
    padding, norm = pair(node._saved_padding), 1.0
    for axis, size in enumerate(_input_shape(node)[-2:]):
        pool = nn.AvgPool1d(
            kernel[axis], stride[axis], padding[axis], node._saved_ceil_mode, node._saved_count_include_pad
        )
        norm *= _pool_norm_1d(size, pool)
    return norm


def _adaptive_pool(node: Node) -> float:
    """Return the norm of an adaptive average pool, the product of its norms along the two axes."""
    norm = 1.0
    for size, out in zip(_input_shape(node)[-2:], _output_shape(node)[-2:], strict=True):
        norm *= _pool_norm_1d(size, nn.AdaptiveAvgPool1d(out))
    return norm


def _pool_norm_1d(size: int, pool: Callable[[Tensor], Tensor]) -> float:
    """Return the norm of a pooling along one axis of the given size, from its matrix."""
    return float(torch.linalg.matrix_norm(pool(torch.eye(size, dtype=torch.float64)[None])[0], 2))


_AFFINE: Final[dict[str, Callable[[Node], float]]] = {
    "Addmm": _matrix,
    "AdaptiveAvgPool2D": _adaptive_pool,
    "AvgPool2D": _average_pool,
    "Convolution": _convolution,
    "CudnnBatchNorm": _batch_norm,
    "Mean": _mean,
    "Mm": _matrix,
    "NativeBatchNorm": _batch_norm,
    "Sum": _sum,
    "_ConstantSpectralConv": _spectral_convolution,
    "_ConstantConv2d": _convolution,  # of bench.numerics.hvp_ops
}


def _output_shape(node: Node) -> tuple[int, ...]:
    """Return the shape of an operation's output."""
    return tuple(node._input_metadata[0].shape)


def _input_shape(node: Node) -> tuple[int, ...]:
    """Return the shape of an operation's first input."""
    parent, index = node.next_functions[0]
    if operation(parent) == "AccumulateGrad":
        return tuple(parent.variable.shape)
    return tuple(parent._input_metadata[index].shape)
