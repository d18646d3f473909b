"""Operations with cheap second derivatives in the image, for Hessian-vector products of a network.

Torch differentiates a network's gradient by general rules: a convolution's also computes an unused weight gradient,
batch norm's in eval mode is some twenty passes over the images, an activation's evaluates its functions again in
every product. With constant weights convolution and batch norm are affine, so that their derivative is one fixed map,
and an activation a = s(z) needs s'(z) and s''(z) once. A product is then two convolutions and three elementwise passes
per layer. Numbers differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.overrides import TorchFunctionMode

from bench.core.torch_state import functorch_active
from bench.models.layers import CenteredSoftplus, Softplus
from bench.models.layers.batch_norm import batch_norm_affine
from bench.models.layers.centered_softplus import softplus_derivatives
from bench.models.layers.conv_arguments import Conv2dGeometry, conv2d_arguments, pair
from bench.numerics.autograd_graph import derivatives
from bench.numerics.smoothness import SMOOTH, SOFTPLUS

_plain: ContextVar[bool] = ContextVar("plain", default=False)


class _ConstantConv2d(torch.autograd.Function):
    """x ↦ W ∗ x + b with constant W and b: its derivative is the transposed map, the same everywhere.

    Unlike `bench.models.layers.double_backward_conv`, which also differentiates in W and therefore keeps x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Conv2dGeometry,
    ) -> Tensor:
        stride, padding, dilation, groups = geometry
        ctx.size, ctx.geometry = tuple(x.shape), geometry
        # Under the names of the library's own node, which `bench.numerics.op_norms` reads.
        ctx._saved_weight, ctx._saved_transposed, ctx._saved_groups = weight, False, groups
        ctx._saved_stride, ctx._saved_padding, ctx._saved_dilation = stride, padding, dilation
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _ConstantConvTranspose2d.apply(grad, ctx._saved_weight, ctx.size, ctx.geometry), None, None, None


class _ConstantConvTranspose2d(torch.autograd.Function):
    """The transpose of the convolution without bias, and as its own derivative the convolution again."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, weight: Tensor, size: tuple[int, ...], geometry: Conv2dGeometry) -> Tensor:
        ctx.weight, ctx.geometry = weight, geometry
        return conv2d_input(size, weight, grad, *geometry)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        return _ConstantConv2d.apply(h, ctx.weight, None, ctx.geometry), None, None, None


class _ActivationFunction(torch.autograd.Function):
    """a = s(z) of an elementwise module, with its value given; s' and s'' are computed once."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor, module: nn.Module) -> Tensor:
        ctx.module, ctx.derivatives = module, None
        ctx.save_for_backward(z)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (z,) = ctx.saved_tensors
        if ctx.derivatives is None:
            ctx.derivatives = _derivatives(ctx.module, z)
        if not torch.is_grad_enabled():
            return grad * ctx.derivatives[0], None, None
        return _ActivationBackward.apply(grad, z, ctx.module, *ctx.derivatives), None, None


def _derivatives(module: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return s'(z) and s''(z), in closed form for the softplus family, else by autograd."""
    if not isinstance(module, SOFTPLUS):
        return derivatives(module.forward, z)
    beta = module.fixed_beta if isinstance(module, Softplus) else module.beta
    first, second = softplus_derivatives(z, beta)
    if not isinstance(module, CenteredSoftplus):
        line = z.detach() * beta > getattr(module, "threshold", 20.0)  # there the library's function is a line
        first.masked_fill_(line, 1.0)
        second.masked_fill_(line, 0.0)
    return first, second


class _ActivationBackward(torch.autograd.Function):
    """(g, z) ↦ g·s'(z), with the derivatives s'(z) in g and g·s''(z) in z."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, z: Tensor, module: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(grad, z, first, grad * second)
        return grad * first

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        grad, z, first, weighted_second = ctx.saved_tensors
        if torch.is_grad_enabled():  # a model that differentiates inside its forward pass needs a third derivative
            (first,) = torch.autograd.grad(ctx.module.forward(z).sum(), z, create_graph=True)
            (weighted_second,) = torch.autograd.grad(first, z, grad, create_graph=True)
        return h * first, h * weighted_second, None, None, None


class _ConstantLayers(TorchFunctionMode):
    """Replaces calls of convolutions and batch norms with constant weights, whichever module makes them."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if functorch_active():
            return function(*args, **kwargs)
        if function is torch.conv2d:
            return _conv2d(*args, **kwargs)
        if function is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        return function(*args, **kwargs)


def _conv2d(*args: Any, **kwargs: Any) -> Tensor:
    """Do what torch.conv2d does; as a constant map where the weights are constant."""
    call = conv2d_arguments(*args, **kwargs)
    variable = call.weight.requires_grad or (call.bias is not None and call.bias.requires_grad)
    if isinstance(call.padding, str) or call.x.ndim != 4 or variable:
        return F.conv2d(*args, **kwargs)
    geometry = pair(call.stride), pair(call.padding), pair(call.dilation), call.groups
    return _ConstantConv2d.apply(call.x, call.weight, call.bias, geometry)


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, *args: Any, **kwargs: Any
) -> Tensor:
    """Do what F.batch_norm does; as a product and a sum per channel where the statistics are constant."""
    given = dict(zip(("weight", "bias", "training", "momentum", "eps"), args, strict=False)) | kwargs
    if given.get("training", False) or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, *args, **kwargs)
    scale, shift = batch_norm_affine(
        running_mean, running_var, given.get("eps", 1e-5), given.get("weight"), given.get("bias")
    )
    shape = (1, -1, *[1] * (input.ndim - 2))
    return (input * scale.view(shape)).add_(shift.view(shape))


@contextmanager
def plain_autograd() -> Iterator[None]:
    """Leave all derivatives inside the block to torch: `hvp_optimized` does nothing."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@contextmanager
def hvp_optimized(model: nn.Module) -> Iterator[None]:
    """Let forward passes inside the block build graphs that are cheap to differentiate twice in the image.

    Values and derivatives (of any order) are the model's, up to rounding. Layers with parameters that require
    gradients, activations that edit their input, and passes under torch.func, are left to torch; within
    `plain_autograd` everything is.

    Args:
        model: any network; hooks are added to its activations, and removed at the end of the block.
    """

    def replace(module: nn.Module, inputs: tuple[Any, ...], value: Tensor) -> Tensor | None:
        constant = not any(p.requires_grad for p in module.parameters())
        if len(inputs) != 1 or not inputs[0].requires_grad or not constant or functorch_active():
            return None
        if value is inputs[0]:  # edited in place: z is gone
            return None
        return _ActivationFunction.apply(inputs[0], value.detach(), module)

    if _plain.get():
        yield
        return
    with ExitStack() as stack:
        for module in model.modules():
            if type(module) in SMOOTH:  # a class derived from them may do more than its elements
                stack.callback(module.register_forward_hook(replace, prepend=True).remove)
        stack.enter_context(_ConstantLayers())
        yield
