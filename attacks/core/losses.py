"""Losses that attacks maximise: margin, log odds (cross-entropy), DLR and targeted DLR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (logits (B, K), labels (B,), target classes (B,)) -> (B,)


def rivals(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logits (B, K) with the true class set to -inf."""
    return logits.scatter(1, y[:, None], -torch.inf)


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{k≠y} z_k − z_y, shape (B,): positive exactly where the example is misclassified."""
    return rivals(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def log_odds_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return u = logsumexp_{k≠y} z_k − z_y, shape (B,): cross-entropy is softplus(u).

    Cross-entropy rises with u, so the order of points and the direction of the gradient are the same,
    ∇CE = σ(u) ∇u; but ∇u does not vanish where p_y rounds to 1, which defeats saturated logits.
    """
    return rivals(logits, y).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def ce_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return logsumexp_{k≠y} z_k − z_y, (B,): cross-entropy's direction and order, without its underflow."""
    return log_odds_loss(logits, y)


def dlr_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), (B,): eq. (6); π sorts the logits downwards, K ≥ 3."""
    top = logits.topk(3, dim=1).values
    return margin_loss(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_loss(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2), (B,): eq. (8). With K ≤ 3 there is no π4: z_t − z_y then."""
    diff = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return diff
    top = logits.topk(4, dim=1).values
    return diff / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


LOSSES: Final[dict[str, Loss]] = {"ce": ce_loss, "dlr": dlr_loss, "targeted": targeted_loss}
