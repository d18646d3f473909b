"""The Auto-PGD that AttackBench ships, called as ours is; an optional library."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated

from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, optional
from bench.core.ranges import Ge, Interval


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
    """Return the points of the Auto-PGD among AttackBench's "original" implementations, (B, C, H, W).

    Its trap: it seeds the generators with 0 itself, so that `seed` changes nothing.

    Arguments as for our `apgd`; `loss` is "ce" or "dlr".

    Raises:
        ModuleNotFoundError: attackbenchlib is not installed.
        ValueError: unknown norm.
    """
    checked("attackbench's apgd", norm)
    make = _library().get_original_apgd
    with isolated(model, x, seed):
        budget = {"num_steps": steps, "num_restarts": restarts, "epsilon": eps, "threat_model": norm}
        attack = make(**budget, loss=loss, rho=rho, use_largereps=False)
        return attack(model=model, inputs=x.detach(), labels=y, targets=None, targeted=False).detach()


def _library() -> ModuleType:
    """Import the configurations of AttackBench's original attacks."""
    return optional("attackbench.attacks.original.configs", "attackbenchlib", "Try `pip install attackbenchlib`.")
