"""The audit: our AutoAttack and the official package on the same images, and where their verdicts differ."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bench.attacks.autoattack import autoattack
from bench.attacks.peers import pyautoattack
from bench.core.decorators import evaluation
from bench.core.records import Column
from bench.measuring.attack_call import AttackCall
from bench.measuring.budgets import check_budgets
from bench.measuring.robust_state import attack_budgets

SOURCE = "Croce and Hein 2020; package pyautoattack"


def _columns(norm: str) -> dict[str, Column]:
    name, words = f"audit_{norm}_{{eps}}", f"within eps ({norm})"
    return {
        f"{name}_ours": Column(f"Our AutoAttack finds no adversarial example {words}.", kind="flag", source=SOURCE),
        f"{name}_official": Column(f"The official AutoAttack finds none {words}.", kind="flag", source=SOURCE),
        f"{name}_missed": Column(
            "The official AutoAttack broke the example and ours did not.",
            kind="flag",
            board=f"{name}_missed",
            aggregate="sum",
            source=SOURCE,
            role="audit",
            params={"norm": norm},
        ),
        f"{name}_gained": Column(
            "Our AutoAttack broke the example and the official one did not.",
            kind="flag",
            board=f"{name}_gained",
            aggregate="sum",
            source=SOURCE,
            role="audit",
            params={"norm": norm},
        ),
        f"{name}_official_broken_by": Column("The official stage that broke it.", kind="text", source=SOURCE),
    }


def _audit(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: Sequence[float], seed: int
) -> dict[str, Tensor | list[str]]:
    """Run both attacks at every budget and compare their verdicts."""
    budgets = check_budgets(f"audit_{norm}", eps, norm, x.shape[1:])
    attacks = (AttackCall(f, p, norm, seed) for f, p in ((autoattack, "ours"), (pyautoattack.autoattack, "official")))
    results = (attack_budgets(call, model, x, y, budgets) for call in attacks)
    columns: dict[str, Tensor | list[str]] = {}
    for ours, official in zip(*results, strict=True):
        name, a, b = f"audit_{norm}_{ours.eps:g}", ours.state.robust, official.state.robust
        columns |= {f"{name}_ours": a, f"{name}_official": b, f"{name}_missed": a & ~b, f"{name}_gained": b & ~a}
        columns[f"{name}_official_broken_by"] = official.state.broken_by
    return columns


@evaluation(source=SOURCE, columns=_columns("l2"), chunk=32, automatic="audit", gradients=True)
def audit_l2(
    model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, eps: Sequence[float] = (0.5,)
) -> dict[str, Tensor | list[str]]:
    """Attack images x (B, C, H, W) with our AutoAttack and with the official one, in l2, and compare per example.

    The instrument's own check: protocol, section 1. Meant for a few images drawn at random; an image that resists
    costs about 10,000 passes on each side.

    Returns:
        The columns by name, one value per image.

    Raises:
        BenchError: something was not finite.
        UsageError: an impossible eps.
    """
    return _audit(model, x, y, norm="l2", eps=eps, seed=seed)


@evaluation(source=SOURCE, columns=_columns("linf"), chunk=32, automatic="audit", gradients=True)
def audit_linf(
    model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, eps: Sequence[float] = (8 / 255,)
) -> dict[str, Tensor | list[str]]:
    """Attack images x (B, C, H, W) with our AutoAttack and with the official one, in linf, and compare per example.

    See `audit_l2`, whose arguments it has.

    Returns:
        The columns by name, one value per image.

    Raises:
        BenchError: something was not finite.
        UsageError: an impossible eps.
    """
    return _audit(model, x, y, norm="linf", eps=eps, seed=seed)
