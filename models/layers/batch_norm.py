"""Batch norm whose double backward is written out, for objectives that differentiate input gradients in training.

Torch composes the second derivative of batch norm from some thirty passes over the images (pytorch#3076), a sixth
to a quarter of a step with gradient regularisation on a CPU; here it is one library kernel and seven passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.split_batch import is_split
from bench.core.torch_state import functorch_active

# The library's own kernels.
_forward = torch.ops.aten.native_batch_norm
_backward = torch.ops.aten.native_batch_norm_backward


class _BatchNorm(torch.autograd.Function):
    """y = w·x̂, x̂ = (x − μ)·s, s = 1/√(var + eps), with the batch's statistics, by the library's kernels."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
    ) -> Tensor:
        y, mean, scale = _forward(x, weight, None, running_mean, running_var, True, momentum, eps)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        if functorch_active():  # a batch of gradients at once
            return *_composed_backward(grad, x, weight, ctx.eps), None, None, None, None
        grad_x, grad_weight, _ = _BatchNormBackward.apply(grad, x, weight, mean, scale, ctx.eps)
        return grad_x, grad_weight, None, None, None, None


class _BatchNormBackward(torch.autograd.Function):
    """The backward pass of `_BatchNorm` as a function of its own: (g, x, w) → (g_x, g_w, Σ g).

    Per channel, with m the mean over the batch: g_x = w·s·(g − m(g) − x̂·m(g·x̂)), g_w = Σ g·x̂.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad_x, moment, total = _backward(grad, x, weight, None, None, mean, scale, True, eps, [True, True, True])
        ctx.eps = eps
        ctx.mark_non_differentiable(total)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight, mean, scale, moment, total)
        return grad_x, moment, total

    @staticmethod
    def backward(ctx: Any, h: Tensor | None, h_weight: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        grad, x, weight, mean, scale, moment, total = ctx.saved_tensors
        h = torch.zeros_like(x) if h is None else h
        if torch.is_grad_enabled() or functorch_active():
            # For a third derivative, where μ and s are functions of x, and for a batch of vectors at once.
            pull: Any = torch.func.vjp(lambda g, x, w: _composed_backward(g, x, w, ctx.eps), grad, x, weight)[1]
            return *pull((h, torch.zeros_like(weight) if h_weight is None else h_weight)), None, None, None
        # Means: a of h·g, b of h, c of g, d of h·x̂, e of g·x̂. (g, x) ↦ g_x is self-adjoint in g.
        n = x.numel() // x.shape[1]
        out_grad, d, b = _backward(h, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True])
        b, c, d, e = b / n, total / n, d / n, moment / n
        a = (h * grad).sum(_batch_dims(x)) / n
        ws = weight * scale
        on_h, on_grad, rest = -ws * e, -ws * d if h_weight is None else h_weight - ws * d, ws * (a - b * c - d * e)
        on_unit = -scale * (on_h * d + on_grad * e + rest)  # of x̂
        constant = -scale * (on_h * b + on_grad * c) - on_unit * scale * mean
        out_x = h * _per_channel(scale * on_h, x)
        out_x.addcmul_(grad, _per_channel(scale * on_grad, x)).addcmul_(x, _per_channel(on_unit * scale, x))
        out_x.add_(_per_channel(constant, x))
        if h_weight is not None:
            out_grad.add_((x - _per_channel(mean, x)) * _per_channel(scale * h_weight, x))
        return out_grad, out_x, scale * n * (a - b * c - d * e), None, None, None


def _composed_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return what `_BatchNormBackward` does, (g_x, g_w), as a composition that autograd follows to any order."""
    var, mean = torch.var_mean(x, _batch_dims(x), correction=0)
    scale = _per_channel((var + eps).rsqrt(), x)
    unit = (x - _per_channel(mean, x)) * scale
    moment = (grad * unit).mean(_batch_dims(x), keepdim=True)
    centered = grad - grad.mean(_batch_dims(x), keepdim=True) - unit * moment
    return _per_channel(weight, x) * scale * centered, moment.flatten() * (x.numel() // x.shape[1])


def _batch_dims(x: Tensor) -> list[int]:
    """Return all dimensions but the channels'."""
    return [d for d in range(x.dim()) if d != 1]


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return values (C,) in the shape that broadcasts over x (B, C, …)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def scaled_batch_norm(layer: nn.BatchNorm2d, x: Tensor, weight: Tensor | None) -> Tensor:
    """Return batch norm of x (B, C, H, W) times weight (C,), as nn.BatchNorm2d would with that weight and no bias.

    Args:
        layer: whose running statistics are used, and in training mode updated, and whose eps and momentum count.
        x: images.
        weight: contiguous: torch's CPU backward for channels_last or 1×1 images reads past the end of an expanded
            tensor (seen in 2.15). None: ones.

    Raises:
        ValueError: the layer has no running statistics, or no fixed momentum.
    """
    mean, var, momentum = layer.running_mean, layer.running_var, layer.momentum
    if mean is None or var is None or momentum is None:
        raise ValueError(f"batch norm: expected running statistics with a fixed momentum, got {layer}. Set both.")
    if not layer.training or torch.compiler.is_compiling() or functorch_active() or is_split():
        return F.batch_norm(x, mean, var, weight, None, layer.training, momentum, layer.eps)
    weight = torch.ones_like(mean) if weight is None else weight
    return _BatchNorm.apply(x, weight, mean, var, momentum, layer.eps)


def batch_norm_affine(
    running_mean: Tensor,
    running_var: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return batch norm in eval mode as an affine map: scale (C,) and shift (C,) of y = scale·x + shift.

    Args:
        running_mean: (C,).
        running_var: (C,).
        eps: added to the variance.
        weight: (C,) or (); None: ones.
        bias: (C,); None: zeros.
    """
    scale = (running_var + eps).rsqrt() if weight is None else weight / (running_var + eps).sqrt()
    return scale, -running_mean * scale if bias is None else bias - running_mean * scale


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d without affine part, as in all the paper's networks; same numbers, faster double backward.

    Args:
        num_features: channels C of the input (B, C, H, W).

    Attributes:
        running_mean: (C,).
        running_var: (C,).
        num_batches_tracked: training-mode passes, shape ().
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W), same shape."""
        self._check_input_dim(x)
        if self.training:
            self.num_batches_tracked.add_(1)
        return scaled_batch_norm(self, x, None)
