"""PGD and the fast gradient sign method of torchattacks 3, called as ours are; an optional library."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated

from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, optional
from bench.attacks.core.placed import placed
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
    """Return the last point of torchattacks' PGD, images (B, C, H, W), labels (B,).

    Its traps: it adds 1e-10 to the gradient norm, which shrinks the steps on saturated logits (1e-30 is passed
    instead); the radius of its l2 start is uniform, so it begins nearer to the image than a uniform point does; it
    prints a warning for a network without parameters (it is given one). Its "standard" AutoAttack makes 10 steps
    instead of 100 and is therefore not offered here.

    Arguments as for our `pgd`.

    Raises:
        ModuleNotFoundError: torchattacks is not installed.
        ValueError: unknown norm.
    """
    checked("torchattacks' pgd", norm)
    library = _library()
    step = 2.5 * eps / steps if rel_stepsize is None else rel_stepsize * eps
    with isolated(model, x, seed):
        network = placed(model, x)
        if norm == "linf":
            attack = library.PGD(network, eps=eps, alpha=step, steps=steps, random_start=random_start)
        else:
            attack = library.PGDL2(
                network, eps=eps, alpha=step, steps=steps, random_start=random_start, eps_for_division=1e-30
            )
        return attack(x.detach(), y).detach()


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: Annotated[float, Ge(0)], norm: str = "linf", seed: int = 0
) -> Tensor:
    """Return torchattacks' fast gradient sign step (linf only), images (B, C, H, W), labels (B,).

    Raises:
        ModuleNotFoundError: torchattacks is not installed.
        ValueError: a norm other than linf.
    """
    checked("torchattacks' fgsm", norm, ("linf",))
    with isolated(model, x, seed):
        return _library().FGSM(placed(model, x), eps=eps)(x.detach(), y).detach()


def _library() -> ModuleType:
    """Import torchattacks."""
    advice = "It pins an old requests, so install it with `pip install --no-deps torchattacks`."
    return optional("torchattacks", "torchattacks", advice)
