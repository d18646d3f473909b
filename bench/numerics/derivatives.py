"""First and second derivatives of the per-example loss, batch-wise, for the geometry evaluations.

The loss is cross-entropy at the true label, written f = softplus(u) with u = logsumexp_{k≠y}(z_k − z_y), whose
gradient keeps its relative accuracy where p_y rounds to 1. In eval mode the sum of the losses of a batch has a
block-diagonal Hessian, so one Hessian-vector product of the sum is one product per example.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.numerics.hvp_ops import hvp_optimized
from bench.numerics.model_precision import logits_of
from bench.numerics.vectors import require_finite


def log_odds_of_error(logits: Tensor, y: Tensor) -> Tensor:
    """Return u = logsumexp_{k≠y}(z_k − z_y) = log((1 − p_y)/p_y), (B,).

    Args:
        logits: z, (B, K).
        y: labels, (B,).
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= y[:, None])
    return (logits.gather(1, others) - logits.gather(1, y[:, None])).logsumexp(1)


def loss_per_example(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy −log p_y, (B,).

    torch's own threshold of 20 would drop a second derivative of 2e-9; exp(80) still fits float32.

    Args:
        logits: z, (B, K).
        y: labels, (B,).
    """
    return F.softplus(log_odds_of_error(logits, y), threshold=80.0)


def differentiate(output: Tensor, x: Tensor, weight: Tensor, *, graph: bool = False) -> Tensor:
    """Return Σ weight·∂output/∂x, shaped like x; zeros where output does not depend on x. Keeps the graph.

    Args:
        output: any shape, with its graph.
        x: what it is differentiated in.
        weight: shaped like output.
        graph: whether the result has a graph of its own, to be differentiated again.
    """
    if not output.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(
        output, x, weight, create_graph=graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )[0]


@dataclass(frozen=True)
class Expansion:
    """The loss around a batch, to second order, with the graph kept for Hessian-vector products.

    Derivatives are those of f/scale, scale = 1 − p_y: neither they nor their squares underflow where the model
    is confident. d = C·H·W.

    Attributes:
        x: leaf that requires grad, (B, C, H, W).
        logits: (B, K), with its graph.
        loss: f, (B,), detached.
        scale: 1 − p_y, (B,), detached.
        grad: ∇(f/scale), (B, C, H, W), with its graph.
    """

    x: Tensor
    logits: Tensor
    loss: Tensor
    scale: Tensor
    grad: Tensor

    @property
    def gradient(self) -> Tensor:
        """∇f/scale, (B, d), detached."""
        return self.grad.detach().flatten(1)

    def detach(self) -> Expansion:
        """Return the expansion without its graph, to free the memory; `hvp` is then not available."""
        return Expansion(self.x.detach(), self.logits.detach(), self.loss, self.scale, self.grad.detach())

    def hvp(self, v: Tensor) -> Tensor:
        """Return ∇²f·v/scale for v (B, d), example by example, (B, d)."""
        return differentiate(self.grad, self.x, v.view_as(self.x)).flatten(1)


def expand(model: nn.Module, x: Tensor, y: Tensor, *, second_order: bool = True) -> Expansion:
    """Return the loss's expansion at x, in the dtype of x.

    Args:
        model: logits (B, K) from images, in eval mode.
        x: images (B, C, H, W).
        y: labels (B,).
        second_order: False leaves out the graph of the gradient; `hvp` is then not available.

    Raises:
        BenchError: a logit or a gradient is not finite, or the model computes in another dtype.
    """
    x = x.detach().clone().requires_grad_(True)
    with _twice_differentiable(model) if second_order else nullcontext():
        logits = logits_of(model, x)
    u = log_odds_of_error(logits, y)
    scale = u.detach().sigmoid().clamp_min(1e-30)
    loss = F.softplus(u, threshold=80.0)
    grad = differentiate(loss, x, 1 / scale, graph=second_order)
    require_finite("gradient of the loss", grad)
    return Expansion(x, logits, loss.detach(), scale, grad)


@contextmanager
def _twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Let passes inside the block build graphs that can be differentiated twice, cheaply where that can be.

    The fused kernels of attention have no second derivative; the formula that they compute has.
    """
    with sdpa_kernel(SDPBackend.MATH), hvp_optimized(model):
        yield
