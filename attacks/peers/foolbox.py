"""PGD and the fast gradient method of foolbox 3, called as ours are."""

from __future__ import annotations

import os
from types import ModuleType
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
    """Return the last point of foolbox's PGD, images (B, C, H, W), labels (B,).

    Its traps: importing it needs a `git` binary or GIT_PYTHON_REFRESH=quiet, and scipy below 2; it moves the
    model to the first GPU unless given a device.

    Arguments as for our `pgd`.

    Raises:
        ValueError: unknown norm.
    """
    checked("foolbox's pgd", norm)
    attacks = _library().attacks
    kind = attacks.LinfProjectedGradientDescentAttack if norm == "linf" else attacks.L2ProjectedGradientDescentAttack
    length = 2.5 / steps if rel_stepsize is None else rel_stepsize
    return _run(kind(rel_stepsize=length, steps=steps, random_start=random_start), model, x, y, eps, seed)


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: Annotated[float, Ge(0)], norm: str = "l2", seed: int = 0
) -> Tensor:
    """Return foolbox's fast gradient step, images (B, C, H, W), labels (B,); same traps as `pgd`."""
    checked("foolbox's fgsm", norm)
    attacks = _library().attacks
    kind = attacks.LinfFastGradientAttack if norm == "linf" else attacks.L2FastGradientAttack
    return _run(kind(random_start=False), model, x, y, eps, seed)


def _library() -> ModuleType:
    """Import foolbox."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with quiet_import():
        import foolbox
    return foolbox


def _run(attack: object, model: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
    """Run a fixed-epsilon attack and return foolbox's own clipped points."""
    with isolated(model, x, seed):
        wrapped = _library().PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, clipped, _ = attack(wrapped, x.detach(), y, epsilons=eps)  # type: ignore[operator]
    return clipped.detach()
