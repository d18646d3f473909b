"""The attack that a defense's author declares against the own defense, joined to a standard one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, frozen, losses, randomness, search
from bench.attacks.core.apgd_loop import ApgdState, apgd_loop
from bench.core.records import Adaptive

STREAM: Final = 6 << 20
STEPS: Final = 100


def adaptive(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, declaration: Adaptive
) -> Tensor:
    """Run Auto-PGD with the declared gradients and loss, judged by the model itself; return the worst points.

    Gradients come from `surrogate(model)` (backward pass differentiable approximation, Athalye et al. 2018),
    averaged over `eot` passes; the loss is the declared one, else the margin. Images x are (B, C, H, W).

    Raises:
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    guide = declaration.surrogate(model) if declaration.surrogate else model
    own = declaration.loss
    zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
    keys = randomness.example_keys(x, seed)

    def loss(logits: Tensor, label: Tensor, goal: Tensor) -> Tensor:
        return own(logits, label) if own else losses.margin_loss(logits, label)

    with frozen.frozen_eval(model), frozen.frozen_eval(guide):
        best = search.Best("adaptive attack", model, x, y)
        for start in range(2):  # from the image itself and from a random point: surrogates are often bent near x
            for rows in best.parts(len(x)):
                delta = torch.zeros_like(x[rows])
                if start:
                    delta = balls.sphere_perturbation(x[rows], keys[rows], STREAM, eps, norm)
                state = ApgdState.start(x, y, rows, y[:, None], delta[:, None], eps, norm)
                apgd_loop(guide, state, best, zero, loss, STEPS, eps, norm, 0.75, declaration.eot, truth=model)
    return best.result()


def worst_case_with(attack: Callable[..., Tensor], declaration: Adaptive) -> Callable[..., Tensor]:
    """Return an attack that runs the declared one on what a standard attack leaves, and gives the worst case."""

    def both(
        model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, trace: dict[str, Any], **rest: Any
    ) -> Tensor:
        found = attack(model, x, y, eps=eps, norm=norm, seed=seed, trace=trace, **rest)
        left = (search.predict(model, found).argmax(1) == y).nonzero()[:, 0]
        if len(left):
            point = adaptive(model, x[left], y[left], eps=eps, norm=norm, seed=seed, declaration=declaration)
            wrong = search.predict(model, point).argmax(1) != y[left]
            found = found.clone()
            found[left[wrong]] = point[wrong]
            for row in left[wrong].tolist():
                trace["broken_by"][row] = "adaptive"
        return found

    return both
