"""PGD and the fast gradient method of cleverhans 4, called as ours are."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, quiet_import
from bench.core.ranges import Ge, Gt


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 40,
    rel_stepsize: Annotated[float, Gt(0)] | None = None,
    random_start: bool = True,
) -> Tensor:
    """Return the last point of cleverhans' PGD, images (B, C, H, W), labels (B,).

    Its traps: it attacks the model's own prediction unless given labels, does not clip unless asked to, crashes if
    x requires a gradient, returns a tensor that does, and floors the squared gradient at 1e-12 after averaging
    the loss over the batch, so that saturated logits look robust (left as it is: this is the library's answer).
    Its random start is uniform in the cube, then projected.

    Arguments as for our `pgd`.

    Raises:
        ValueError: a step larger than eps, which the library refuses.
    """
    checked("cleverhans' pgd", norm)
    step = 2.5 * eps / steps if rel_stepsize is None else rel_stepsize * eps
    if step > eps:
        raise ValueError(f"cleverhans' pgd: expected a step of at most eps, got {step:g} > {eps:g}. Use more steps.")
    with quiet_import():
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
    with isolated(model, x, seed):
        found = projected_gradient_descent(
            model,
            x.detach().clone(),
            eps,
            step,
            steps,
            math.inf if norm == "linf" else 2,
            clip_min=0.0,
            clip_max=1.0,
            y=y,
            rand_init=random_start,
            sanity_checks=False,
        )
    return found.detach()


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: Annotated[float, Ge(0)], norm: str = "l2", seed: int = 0
) -> Tensor:
    """Return cleverhans' fast gradient step, images (B, C, H, W), labels (B,); same traps as `pgd`."""
    checked("cleverhans' fgsm", norm)
    with quiet_import():
        from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
    with isolated(model, x, seed):
        order = math.inf if norm == "linf" else 2
        found = fast_gradient_method(model, x.detach().clone(), eps, order, clip_min=0.0, clip_max=1.0, y=y)
    return found.detach()
