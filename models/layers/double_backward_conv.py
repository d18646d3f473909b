"""Convolutions whose double backward is written out, for objectives that differentiate input gradients in training.

Torch composes the second derivative's weight gradient from a convolution with kernels as large as the images
(three times the time of a weight gradient on a CPU); here it is the library's own weight gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.core.torch_state import autocast_on, functorch_active
from bench.models.layers.conv_arguments import Conv2dArguments, Conv2dGeometry, conv2d_arguments, pair

# Numbers of an input, B·C·H·W, from which our backward pass saves more than its Python calls cost: below, a step on
# the 8×8 digits would take 6 % longer; above, a step of ResNet-18 on 32×32 images takes 11 % less.
MIN_INPUT_NUMEL = 1 << 17

_backward = torch.ops.aten.convolution_backward


class _Conv2d(torch.autograd.Function):
    """y = x ∗ w, without bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: Conv2dGeometry) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = [w and _will_execute(n) for w, (n, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False)]
        return *_Conv2dBackward.apply(grad, *ctx.saved_tensors, ctx.geometry, needed[0], needed[1]), None


class _Conv2dBackward(torch.autograd.Function):
    """The backward pass of `_Conv2d` as a function of its own: (g, x, w) → (w ⋆ g, x ⋆ g).

    It is linear in each of g, x and w, so that its gradient consists of a convolution, an input gradient and a weight
    gradient, each of which torch can differentiate again.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, geometry: Conv2dGeometry, on_x: bool, on_weight: bool
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
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Conv2dGeometry, on_x: bool, on_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the input gradient and the weight gradient of a convolution; None for one that is not asked for."""
    stride, padding, dilation, groups = geometry
    mask = [on_x, on_weight, False]
    results = _backward(grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups, mask)
    return results[0] if on_x else None, results[1] if on_weight else None


def _will_execute(node: Any) -> bool:
    """Return whether the running backward pass executes a node; True where torch cannot say.

    A gradient in the images alone needs no weight gradients. Torch skips them for its own functions, not for Python's.
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
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.conv2d:
            call = conv2d_arguments(*args, **kwargs)
            if _is_eligible(call) and not isinstance(call.padding, str):
                x, weight = call.x, call.weight
                if autocast_on(x.device) and x.dtype != torch.float64:
                    half = torch.get_autocast_dtype(x.device.type)
                    x, weight = x.to(half), weight.to(half)
                geometry = pair(call.stride), pair(call.padding), pair(call.dilation), call.groups
                # A view of the weight, because for a leaf torch cannot say whether the backward pass reaches it.
                return _Conv2d.apply(x, weight.view_as(weight), geometry)
        return function(*args, **kwargs)


def _is_eligible(call: Conv2dArguments) -> bool:
    """Return whether a convolution is large, without bias, and differentiated in its input outside torch.func."""
    x = call.x
    plain = x.dim() == 4 and x.numel() >= MIN_INPUT_NUMEL and call.bias is None
    return plain and x.requires_grad and torch.is_grad_enabled() and not functorch_active()
