"""Whether gradients exist, and whether they are those of the function: at the image and at a random point near it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.core import balls, randomness, search
from bench.attacks.core.losses import margin_loss, rivals
from bench.attacks.core.randomness import Stream

STEP: Final = 0.02  # of a central difference, over the radius


def input_gradients(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int) -> dict[str, Tensor]:
    """Compare gradients with differences of the function.

    The function is the margin with its rival class held, m(x) = z_r − z_y. Its gradient g, of size ‖g‖ along its own
    direction u, is compared with the central difference D = (m(x + h·u) − m(x − h·u)) / 2h, h = 0.02·eps (l2; for linf
    u is sign g, its slope ‖g‖₁ and h is in that norm): error |D − slope| / max(|D|, slope). Points are not clipped.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball.
        norm: "l2" or "linf".
        seed: of the random point, which belongs to the image.

    Returns:
        (B,) each: `g1_zero_margin_gradient`, `g2_zero_ce_gradient` (1 or 0), `g3_error`, and `g3_error_in_ball` at a
        random point of the ball (NaN where the gradient is zero), `v2_not_finite` (1 or 0): logits or gradients are
        NaN or infinite at one of these points.
    """
    keys = randomness.example_keys(x, seed)
    near = balls.into(x, x + balls.random_perturbation(x, keys, Stream.TRUST_POINT, eps, norm), eps, norm)
    first, second = _at(model, x, y, eps, norm), _at(model, near, y, eps, norm)
    ce = first["ce"]
    bad = first["bad"] | second["bad"] | ~ce.flatten(1).isfinite().all(1)
    return {
        "v2_not_finite": bad.float(),
        "g1_zero_margin_gradient": (first["zero"] | second["zero"]).float(),
        "g2_zero_ce_gradient": (ce.flatten(1) == 0).all(1).float(),
        "g3_error": first["error"],
        "g3_error_in_ball": second["error"],
    }


def _at(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> dict[str, Tensor]:
    """Return `zero`, `bad` (flags) and `error` at points x, (B,) each, and `ce`, cross-entropy's gradient there."""
    logits, g, ce = _gradients(model, x, y)
    rival = rivals(logits, y).argmax(1)
    u, flat = balls.ascent(g, norm), g.flatten(1)
    slope = flat.double().norm(dim=1) if norm == "l2" else flat.double().abs().sum(1)
    h = STEP * eps
    ahead, behind = search.predict(model, x + h * u), search.predict(model, x - h * u)
    bad = ~torch.cat([logits, ahead, behind, flat], 1).isfinite().all(1)
    difference = (_gap(ahead, y, rival) - _gap(behind, y, rival)) / (2 * h)
    size = torch.maximum(difference.abs(), slope)
    error = torch.where((slope > 0) & ~bad, (difference - slope).abs() / size, torch.nan)
    return {"zero": (flat == 0).all(1), "bad": bad, "error": error.to(x.dtype), "ce": ce}


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits (B, K), and the gradients (B, …) of margin and cross-entropy, from one pass; zeros where absent."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        found = []
        for loss in (margin_loss(logits, y), F.cross_entropy(logits.float(), y, reduction="none")):
            grad = None
            if loss.requires_grad:
                (grad,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=True, allow_unused=True)
            found.append(torch.zeros_like(x) if grad is None else grad)
    return logits.detach(), found[0], found[1]


def _gap(logits: Tensor, y: Tensor, rival: Tensor) -> Tensor:
    """Return z_rival − z_y, (B,) float64."""
    z = logits.double()
    return (z.gather(1, rival[:, None]) - z.gather(1, y[:, None]))[:, 0]
