"""PGD as the paper's released helper runs it: weaker than ours, kept so that its numbers can be compared."""

from __future__ import annotations

from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import ZERO_GRADIENT, Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Gt
from bench.core.torch_state import frozen_eval

FLOOR: Final = 1e-12  # cleverhans' lower bound of the squared gradient norm


@attack(
    source="Srinivas et al. 2022, Table 2, as run by the authors' code through cleverhans 4",
    extra={"zero_gradient": ZERO_GRADIENT},
)
def pgd_released(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 10,
    rel_stepsize: Annotated[float, Gt(0)] = 0.1,
    loss_batch: Annotated[int, Ge(1)] = 128,
    trace: Trace | None = None,
) -> Tensor:
    """Return the last point of a short PGD that attacks the model's own prediction and never clips to the box.

    x ← x0 + P_eps(x + s·g/max(‖g‖₂, 1e-6) − x0), g the gradient of cross-entropy averaged over a batch of
    `loss_batch`, s = rel_stepsize·eps, start uniform in the cube [−eps, eps]^d projected into the ball. Known
    weaknesses, kept on purpose: on a linear loss it uses about tanh(steps·rel_stepsize) of the budget, 0.76
    here and 0.29 with 3 steps; points may leave [0, 1] (the judge clips them); gradients under 1e-6·loss_batch
    shrink the step; the last point counts, not the best. What differs from the library: the start belongs to the
    example, and the averaging is over `loss_batch` whatever the batch.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,); not used, the predictions are.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf" (sign steps).
        seed: of the random starts.
        steps: 10 or 3 in the authors' dictionary; 10 is the stronger.
        rel_stepsize: length of a step over the radius; 0.1, from the same place.
        loss_batch: 128, the batch of the authors' runs.
        trace: receives `zero_gradient` (B,), steps whose gradient was exactly zero.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("pgd_released", norm)
    keys = randomness.example_keys(x, seed)
    zero_gradient = torch.zeros(len(x), dtype=torch.long, device=x.device)
    radius = balls.inner(x, eps, norm)
    cube = balls.random_perturbation(x, keys, Stream.PGD_RELEASED_START, eps, "linf")
    x_adv = x + balls.project(cube, radius, norm)
    finite = torch.ones((), dtype=torch.bool, device=x.device)
    with frozen_eval(model):
        predicted = search.predict(model, x).argmax(1)
        for _ in range(steps):
            logits, _, grad = search.gradient(
                model, x_adv, lambda z: nn.functional.cross_entropy(z, predicted, reduction="none") / loss_batch
            )
            finite &= logits.isfinite().all() & grad.isfinite().all()
            zero_gradient += (grad.flatten(1) == 0).all(1)
            if norm == "l2":
                squares = grad.flatten(1).square().sum(1).clamp_min(FLOOR)
                direction = grad / balls.per_example(squares.sqrt(), grad)
            else:
                direction = grad.sign()
            x_adv = x + balls.project(x_adv + rel_stepsize * eps * direction - x, radius, norm)
    if not finite:
        raise FloatingPointError(
            "pgd_released: expected finite logits and gradients, got NaN or infinity. Fix the model's forward."
        )
    if trace is not None:
        trace["zero_gradient"] = zero_gradient
    return x_adv
