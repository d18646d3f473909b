"""The loss's Hessian as two terms: the softmax's curvature in the logits, and the network's own curvature.

With J = ∂z/∂x, H_z = diag(p) − ppᵀ and q = p − e_y: ∇²f = JᵀH_zJ + Σ_k q_k∇²z_k (docs/theory.md, section 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.numerics.derivatives import Expansion, differentiate

Product = Callable[[Tensor], Tensor]


def wrong_class_probabilities(logits: Tensor, y: Tensor) -> Tensor:
    """Return p_k/(1 − p_y) for k ≠ y and 0 at y: the distribution of the wrong classes, (B, K)."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).softmax(1)


def error_vector(logits: Tensor, y: Tensor) -> Tensor:
    """Return (p − e_y)/(1 − p_y), the loss's gradient in the logits over its scale, (B, K)."""
    return wrong_class_probabilities(logits, y).scatter(1, y[:, None], -1.0)


def softmax_product(logits: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Return H_z·w/(1 − p_y), H_z = diag(p) − ppᵀ, without cancellation where p_y is near 1, (B, K).

    Args:
        logits: z, (B, K).
        y: labels, (B,).
        w: (B, K).
    """
    z, r = logits.detach(), wrong_class_probabilities(logits, y)
    p = z.softmax(1)
    product = r * (w - (p * w).sum(1, keepdim=True))
    at_label = p.gather(1, y[:, None]) * (w.gather(1, y[:, None]) - (r * w).sum(1, keepdim=True))
    return product.scatter(1, y[:, None], at_label)


def pushforward(output: Tensor, x: Tensor) -> Product:
    """Return v (B, d) ↦ (∂output/∂x)v from two reverse passes; no forward mode is needed.

    Args:
        output: (B, …), with its graph.
        x: (B, C, H, W).
    """
    dummy = torch.zeros_like(output, requires_grad=True)
    pullback = differentiate(output, x, dummy, graph=True)
    return lambda v: differentiate(pullback, dummy, v.view_as(x))


def pushforwards(outputs: list[Tensor], x: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Return v (B, d) ↦ [(∂output_1/∂x)v, …] from two reverse passes for all of them.

    Args:
        outputs: (B, …) each, with their graphs.
        x: (B, C, H, W).
    """
    dummies = [torch.zeros_like(o, requires_grad=True) for o in outputs]
    pullback = torch.autograd.grad(outputs, x, dummies, create_graph=True, retain_graph=True)[0]
    return lambda v: list(
        torch.autograd.grad(pullback, dummies, v.view_as(x), retain_graph=True, materialize_grads=True)
    )


def logit_term(at: Expansion, y: Tensor) -> Product:
    """Return v ↦ JᵀH_zJv/scale with J = ∂z/∂x: what the softmax's curvature contributes to ∇²f.

    Args:
        at: the expansion at a batch.
        y: labels (B,).
    """
    push = pushforward(at.logits, at.x)

    def product(v: Tensor) -> Tensor:
        return differentiate(at.logits, at.x, softmax_product(at.logits, y, push(v))).flatten(1)

    return product


def network_term(at: Expansion, y: Tensor) -> Product:
    """Return v ↦ Σ_k q_k∇²z_k v/scale with q = p − e_y: what the network's curvature contributes to ∇²f.

    Args:
        at: the expansion at a batch.
        y: labels (B,).
    """
    gradient = differentiate(at.logits, at.x, error_vector(at.logits, y), graph=True)
    return lambda v: differentiate(gradient, at.x, v.view_as(at.x)).flatten(1)
