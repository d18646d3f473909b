"""PGD, Auto-PGD and FMN of adversarial-library (adv-lib), called as ours are; an optional library."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Annotated

from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, optional
from bench.core.ranges import Ge, Gt, Interval


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "linf",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 40,
    rel_stepsize: Annotated[float, Gt(0)] | None = None,
    random_start: bool = True,
) -> Tensor:
    """Return the last misclassified point of adv-lib's PGD (linf only), the image where there was none, (B, C, H, W).

    Its traps: where it broke nothing it returns the image and not its last point; the last step is not looked at.

    Arguments as for our `pgd`.

    Raises:
        ModuleNotFoundError: adv-lib is not installed.
        ValueError: a norm other than linf.
    """
    checked("adv-lib's pgd", norm, ("linf",))
    attack = _library("projected_gradient_descent").pgd_linf
    length = 2.5 / steps if rel_stepsize is None else rel_stepsize
    with isolated(model, x, seed):
        return attack(model, x.detach(), y, eps, steps=steps, random_init=random_start, relative_step_size=length)


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    loss: str = "ce",
    steps: Annotated[int, Ge(1)] = 100,
    restarts: Annotated[int, Ge(1)] = 1,
    rho: Annotated[float, Interval(gt=0, lt=1)] = 0.75,
) -> Tensor:
    """Return the points of adv-lib's Auto-PGD, adapted from the official one, (B, C, H, W).

    Arguments as for our `apgd`; `loss` is "ce" or "dlr".

    Raises:
        ModuleNotFoundError: adv-lib is not installed.
        ValueError: unknown norm.
    """
    checked("adv-lib's apgd", norm)
    attack = _library("auto_pgd").apgd
    with isolated(model, x, seed):
        return attack(
            model, x.detach(), y, eps, _order(norm), n_iter=steps, n_restarts=restarts, loss_function=loss, rho=rho
        ).detach()


def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 100,
    first_step: Annotated[float, Gt(0)] = 1.0,
    gamma: Annotated[float, Interval(gt=0, lt=1)] = 0.05,
) -> Tensor:
    """Return the nearest points that adv-lib's FMN met, inside the ball or not, (B, C, H, W).

    The search does not know eps: a point outside the ball is refused by whoever counts.

    Arguments as for our `fmn`.

    Raises:
        ModuleNotFoundError: adv-lib is not installed.
        ValueError: unknown norm.
    """
    checked("adv-lib's fmn", norm)
    attack = _library("fast_minimum_norm").fmn
    with isolated(model, x, seed):
        return attack(model, x.detach(), y, _order(norm), steps=steps, α_init=first_step, γ_init=gamma).detach()


def _order(norm: str) -> float:
    """Return the order of a norm, as adv-lib names it."""
    return 2 if norm == "l2" else math.inf


def _library(module: str) -> ModuleType:
    """Import a module of adv_lib.attacks."""
    advice = (
        "Its dependency visdom builds with an old setuptools only: "
        "`pip install --build-constraint tests/peers.txt adv-lib`."
    )
    return optional(f"adv_lib.attacks.{module}", "adv-lib and what it imports", advice)
