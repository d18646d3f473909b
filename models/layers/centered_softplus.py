"""Centered softplus s0(x; β) = log((1 + e^{βx})/2)/β with a learnable β, and plain softplus with a fixed β.

Srinivas et al. 2022, section 3.3; β is penalised in its eq. (5). `centered_softplus` is the function,
`CenteredSoftplus` the layer, `Softplus` the activation of the paper's baselines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.torch_state import functorch_active
from bench.models.layers.precompute import JointWork, PrecomputedWeight, Tensors

# Floor of β, from the authors' code (exp(log β) + 1e-3): 1/β stays finite while the penalty drives β down.
BETA_FLOOR = 1e-3
STEEP = 100.0  # β from which most of a network's values are where e^{−β|x|} is denormal
KERNEL_FROM = 1.0  # β from which the kernel of log σ is exact enough for s0: off by 1e-7/β where |βx| is small

# The library's own kernels, of log σ.
_log_sigmoid = torch.ops.aten.log_sigmoid_forward
_log_sigmoid_backward = torch.ops.aten.log_sigmoid_backward


def _stable_value(x: Tensor, beta: Tensor) -> Tensor:
    """Return max(x, 0) − log(1 + tanh(β|x|/2))/β: nothing cancels for small β, nothing overflows for large.

    It is log((1 + e^{βx})/2)/β, since 1 + tanh(t/2) = 2/(1 + e^{−t}). Few passes over memory, in place, because they
    are most of what an activation costs.
    """
    if torch.compiler.is_compiling():  # fused there anyway, and torch 2.11 loses the gradient of a forward in place
        return torch.relu(x) - torch.log1p(torch.tanh((x * (beta * 0.5)).abs())) * (1 / beta)
    excess = (x * (beta * 0.5)).abs_().tanh_().log1p_()
    return excess.div_(-beta).add_(torch.relu(x))


class _CenteredSoftplus(torch.autograd.Function):
    """s0(x; β) with explicit first derivatives, differentiable again any number of times.

    Autograd through |x| and max(x, 0) of the stable form would give s0''(0) = 0 instead of β/4.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        y = _stable_value(x, beta)
        ctx.save_for_backward(x, beta, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        return _gradients(grad, *ctx.saved_tensors, on_beta=ctx.needs_input_grad[1])


def _gradients(grad: Tensor, x: Tensor, beta: Tensor, y: Tensor, *, on_beta: bool) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of ⟨grad, y⟩, y = s0(x; β), in x and, where it is asked for, in β; differentiable in all."""
    grad_x = grad * (x * beta).sigmoid_()
    if not on_beta:
        return grad_x, None
    # Σ grad·∂s0/∂β over everything that shares this β, with ∂s0/∂β = (x·s0' − s0)/β
    return grad_x, (_dot(grad_x, x) - _dot(grad, y)) / beta


def _number(scalar: Tensor) -> float:
    """Return a tensor of shape () in the host's memory as a number, past the operation that waits for a device."""
    number: Any = scalar.tolist()
    return float(number)


class _KernelCenteredSoftplus(torch.autograd.Function):
    """`_CenteredSoftplus` as −(log σ(z) + log 2)/β, z = −βx: one kernel of the library each way, fewer passes.

    That kernel copies what is not contiguous, so it gets channels last as (B, H, W, C).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor) -> Tensor:
        ctx.beta = _number(beta)
        z = x * -ctx.beta
        ctx.last = z.dim() == 4 and not z.is_contiguous() and z.is_contiguous(memory_format=torch.channels_last)
        z = z.permute(0, 2, 3, 1) if ctx.last else z
        log, kept = _log_sigmoid(z)
        y = log.add_(math.log(2.0)).mul_(-1 / ctx.beta)
        y = y.permute(0, 3, 1, 2) if ctx.last else y
        ctx.save_for_backward(x, beta, y, z, kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, beta, y, z, kept = ctx.saved_tensors
        if torch.is_grad_enabled() or functorch_active():
            return _gradients(grad, x, beta, y, on_beta=ctx.needs_input_grad[1])
        if ctx.last:
            grad, y = grad.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
        slope = _log_sigmoid_backward(grad, z, kept)
        on_beta = None
        if ctx.needs_input_grad[1]:  # Σ grad·(x·s0' − s0)/β, x = −z/β
            along, value = torch.dot(slope.reshape(-1), z.reshape(-1)), torch.dot(grad.reshape(-1), y.reshape(-1))
            on_beta = torch.add(value, along, alpha=1 / ctx.beta).mul_(-1 / ctx.beta)
        return slope.permute(0, 3, 1, 2) if ctx.last else slope, on_beta


class _FunctorchCenteredSoftplus(_CenteredSoftplus):
    """`_CenteredSoftplus` for torch.func: batched, with a forward-mode rule (which torch.compile does not accept)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: Tensor) -> Tensor:  # type: ignore[override]
        return _stable_value(x, beta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor | None, beta_tangent: Tensor | None) -> Tensor:
        x, beta, y = ctx.saved_tensors
        derivative = torch.sigmoid(x * beta)
        tangent = torch.zeros_like(x) if x_tangent is None else x_tangent * derivative
        if beta_tangent is None:
            return tangent
        return tangent + (x * derivative - y) * (beta_tangent / beta)


class _SteepSoftplus(torch.autograd.Function):
    """log(1 + e^{βx})/β for a large fixed β in float32 on a CPU, differentiable any number of times.

    There e^{−β|x|} is a denormal number almost everywhere, and the library's kernels spend most of a narrow network's
    step on those. Below −β|x| = −17 the logarithm is 0 in float32 anyway; the derivative is cut at σ(±60).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.beta = beta
        ctx.save_for_backward(x)
        excess = x.abs().mul_(-beta).clamp_min_(-17).exp_().add_(1).log_()
        return torch.relu(x).add_(excess, alpha=1 / beta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return grad * (x * ctx.beta).clamp(-60, 60).sigmoid(), None
        return (x * ctx.beta).clamp_(-60, 60).sigmoid_().mul_(grad), None


def softplus(x: Tensor, beta: float) -> Tensor:
    """Return log(1 + e^{βx})/β, elementwise, same shape as x.

    The library's function, and for steep ones in float32 on a CPU the same within 1e-6/β by faster operations.

    Args:
        x: any shape.
        beta: β > 0.
    """
    slow_there = beta >= STEEP and x.dtype == torch.float32 and x.device.type == "cpu"
    if slow_there and not torch.compiler.is_compiling() and not functorch_active():
        return _SteepSoftplus.apply(x, beta)
    return F.softplus(x, beta=beta)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return Σ a·b, shape (), without a temporary where the layouts allow; half precision is summed in float32."""
    if a.dtype in (torch.bfloat16, torch.float16):
        return (a.float() * b.float()).sum()
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.reshape(-1), b.reshape(-1))
    if a.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (a, b)):
        return torch.dot(a.permute(0, 2, 3, 1).reshape(-1), b.permute(0, 2, 3, 1).reshape(-1))
    return (a * b).sum()


def centered_softplus(x: Tensor, beta: Tensor) -> Tensor:
    """Return s0(x; β) = log((1 + e^{βx})/2)/β, elementwise, same shape as x.

    Srinivas et al. 2022, section 3.3. s0(0) = 0, s0' = σ(βx) in (0, 1), s0'' = β·σ(βx)·(1 − σ(βx)) ≤ β/4,
    β → 0 gives x/2, β → ∞ gives max(x, 0). Differs from the formula only in rounding: values have a relative
    error of a few units in the last place for every β, first and second derivatives an absolute one relative to 1
    and to β/4. In float32 on a CPU with 1 ≤ β < 100, values have beside it an absolute error of up to 1e-7/β, which is
    what rounding an x near 1 does to them. Any number of derivatives in x and β, backward or forward mode.

    Args:
        x: any shape.
        beta: β > 0, shape ().
    """
    if torch.compiler.is_compiling():
        return _CenteredSoftplus.apply(x, beta)
    if functorch_active():
        return _FunctorchCenteredSoftplus.apply(x, beta)
    on_host = x.dtype == torch.float32 and x.device.type == beta.device.type == "cpu"
    plain = type(beta) is Tensor  # one that is being traced has no value to read
    if on_host and plain and KERNEL_FROM <= _number(beta) < STEEP:
        return _KernelCenteredSoftplus.apply(x, beta)
    return _CenteredSoftplus.apply(x, beta)


@torch.no_grad()
def softplus_derivatives(z: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return s'(z) = σ(βz) and s''(z) = β·σ(βz)·(1 − σ(βz)) of centered and plain softplus, shaped like z, detached.

    Args:
        z: any shape.
        beta: β > 0.
    """
    first = (z.detach() * beta).sigmoid()
    return first, (first - first.square()).mul_(beta)


class _Betas(JointWork):
    """β = exp(log β) + 1e-3 of several layers, as one stack."""

    @staticmethod
    def compute(layers: Sequence[CenteredSoftplus], sources: Tensors) -> tuple[Tensors, Tensors]:
        exponentials = torch.stack(list(sources)).exp()
        return (exponentials + BETA_FLOOR).unbind(), [exponentials, *sources]

    @staticmethod
    def pull_back(layers: Sequence[CenteredSoftplus], saved: Tensors, grads: Tensors) -> Tensors:
        exponentials, *sources = saved
        if torch.is_grad_enabled():  # to be differentiated again
            exponentials = torch.stack(sources).exp()
        return (torch.stack(list(grads)) * exponentials).unbind()


class CenteredSoftplus(PrecomputedWeight):
    """Activation s0(x; β) with one learnable scalar β = exp(log β) + 1e-3 for the whole module.

    Srinivas et al. 2022, section 3.3 and eq. (5). The floor 1e-3 and β0 = 5 are the authors' code's; the paper
    gives neither. Differs from their code in the stable form (theirs loses digits for small β and is cut to a
    line above βx = 20).

    Args:
        beta0: initial β, without the floor; > 0.
        learn_beta: False keeps β at its initial value (a buffer); it then takes no part in the penalty.
        centered: False gives log(1 + e^{βx})/β, which does not vanish at 0 (an ablation).

    Attributes:
        log_beta: log β without the floor, shape (); a parameter, exempt from weight decay, or a buffer.

    Raises:
        ValueError: beta0 ≤ 0.
    """

    no_weight_decay: ClassVar[frozenset[str]] = frozenset({"log_beta"})
    precomputed_from: ClassVar[str] = "log_beta"
    joint: ClassVar[type[JointWork] | None] = _Betas

    def __init__(self, beta0: float = 5.0, *, learn_beta: bool = True, centered: bool = True) -> None:
        super().__init__()
        if not beta0 > 0:
            raise ValueError(f"CenteredSoftplus: expected beta0 > 0, got {beta0}. Use nn.Identity for a line.")
        self.centered = centered
        log_beta = torch.tensor(math.log(beta0))
        if learn_beta:
            self.log_beta = nn.Parameter(log_beta)
        else:
            self.register_buffer("log_beta", log_beta)

    @property
    def beta(self) -> Tensor:
        """The β in force, floor included; shape ()."""
        return self.precompute(self.log_beta)

    def precompute(self, source: Tensor) -> Tensor:
        """Return β = exp(log β) + 1e-3, shape ().

        Args:
            source: log β, shape ().
        """
        return source.exp() + BETA_FLOOR

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, same shape as x."""
        beta = self.take_precomputed() if self.training else self.beta
        y = centered_softplus(x, beta)
        return y if self.centered else y + math.log(2.0) / beta

    def extra_repr(self) -> str:
        """Return β and whether the activation is centered."""
        return f"beta={self.beta.item():.4g}, centered={self.centered}"


class Softplus(nn.Module):
    """Plain softplus log(1 + e^{βx})/β with a fixed β, not centered: the activation of the paper's baselines.

    Args:
        beta: β = 1e3 is "Standard" (numerically a ReLU with a curvature spike of width 1/β), β = 10 is
            "Softplus + Wt. Decay" (authors' code).

    Above βx = 20 the library function is exactly linear; its derivative jumps there by 2e-9. In float32 on a CPU a β of
    100 or more is computed by faster operations, within 1e-6/β of it.

    Raises:
        ValueError: beta ≤ 0.
    """

    def __init__(self, beta: float = 1e3) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"Softplus: expected beta > 0, got {beta}. Use nn.Identity for a line.")
        self.fixed_beta = float(beta)

    @property
    def beta(self) -> Tensor:
        """The fixed β, shape (), float64: what bounds are checked with must be what is computed with."""
        return torch.tensor(self.fixed_beta, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, same shape as x."""
        return softplus(x, self.fixed_beta)

    def extra_repr(self) -> str:
        """Return β."""
        return f"beta={self.fixed_beta:g}"
