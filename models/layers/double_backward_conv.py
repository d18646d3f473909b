"""Convolutions whose double backward is written out, for objectives that differentiate input gradients in training.

Torch composes the second derivative's weight gradient from a convolution with kernels as large as the images
(three times the time of a weight gradient on a CPU); here it is the library's own weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.models.layers.torch_state import autocast_on, functorch_active

# Values of an input from which the library's way costs more than ours, in Python, does: 0.06 of a step on the 8×8
# digits would be lost below, 0.11 of one of ResNet-18 on 32×32 is won above.
MIN_INPUT_NUMEL = 1 << 17

_backward = torch.ops.aten.convolution_backward


class _Conv2d(torch.autograd.Function):
    """y = x ∗ w, without bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [w and _will_execute(n) for w, (n, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False)]
        return *_Conv2dBackward.apply(grad, *ctx.saved_tensors, ctx.geometry, wanted[0], wanted[1]), None


class _Conv2dBackward(torch.autograd.Function):
    """The gradient of `_Conv2d`, a function with a gradient of its own: (g, x, w) → (w ⋆ g, x ⋆ g).

    It is linear in each of g, x and w, so that its gradient is made of a convolution, an input gradient and a weight
    gradient, each of which torch can differentiate again.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[Any, ...], on_x: bool, on_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        return _gradients(grad, x, weight, geometry, on_x, on_weight)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None, h_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad, x, weight), geometry = ctx.saved_tensors, ctx.geometry
        out_grad = out_x = out_weight = None
        if h is not None:
            out_grad = F.conv2d(h, weight, None, *geometry)
            _, out_weight = _gradients(grad, h, weight, geometry, False, True)
        if h_weight is not None:
            more = F.conv2d(x, h_weight, None, *geometry)
            out_grad = more if out_grad is None else out_grad + more
            out_x, _ = _gradients(grad, x, h_weight, geometry, True, False)
        return out_grad, out_x, out_weight, None, None, None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[Any, ...], on_x: bool, on_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the input gradient and the weight gradient of a convolution, those that are wanted."""
    stride, padding, dilation, groups = geometry
    found = _backward(grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [on_x, on_weight, False])
    return found[0] if on_x else None, found[1] if on_weight else None


def _will_execute(node: Any) -> bool:
    """Return whether the backward pass that is running goes on to a node; True where torch does not tell.

    A gradient in the images alone needs no weight gradients; torch spares its own functions those, not Python's.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError, TypeError):
        return True


class DoubleBackwardConv2d(TorchFunctionMode):
    """Inside the block, large forward convolutions are ones with the written-out double backward; same numbers.

    For a loss that differentiates an input gradient: `with DoubleBackwardConv2d(): total = loss(model(x), y)`.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.conv2d:
            x, weight, bias, *numbers = _arguments(*args, **kwargs)
            if _is_eligible(x, bias, numbers[1]):
                if autocast_on(x.device) and x.dtype != torch.float64:
                    half = torch.get_autocast_dtype(x.device.type)
                    x, weight = x.to(half), weight.to(half)
                # a view of the weight, because torch does not tell whether a pass goes on to a leaf
                return _Conv2d.apply(x, weight.view_as(weight), (*map(_pair, numbers[:3]), numbers[3]))
        return function(*args, **kwargs)


def _arguments(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the arguments of torch.conv2d in order, whichever way they were given."""
    return input, weight, bias, stride, padding, dilation, groups


def _is_eligible(x: Tensor, bias: Tensor | None, padding: Any) -> bool:
    plain = x.dim() == 4 and x.numel() >= MIN_INPUT_NUMEL and bias is None and not isinstance(padding, str)
    return plain and x.requires_grad and torch.is_grad_enabled() and not functorch_active()


def _pair(value: int | tuple[int, int] | list[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
