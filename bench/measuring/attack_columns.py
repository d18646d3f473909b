"""The columns of robust accuracy under an attack: their values, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from torch import Tensor, nn

from bench.core.records import Column
from bench.measuring.attack_call import CONFIRM, AttackCall, Search
from bench.measuring.budgets import check_budgets
from bench.measuring.robust_state import attack_budgets

NORM_FORMULAS: Final = {"l2": "‖x' − x‖₂", "linf": "‖x' − x‖∞"}


def robust_columns(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[..., Tensor],
    prefix: str,
    eps: Sequence[float],
    norm: str,
    seed: int,
    arguments: Mapping[str, object],
    extra: Mapping[str, Column] | None = None,
    search: Search = "fp32",
    confirm: float = CONFIRM,
) -> dict[str, Tensor | list[str]]:
    """Attack every correctly classified example, from the largest budget down, and return the columns.

    An example broken at one budget is broken at the larger ones by the same point. One that the attack cannot break in
    a ball counts as robust in the smaller ones and is not attacked there, but for a share of all examples, drawn at
    random, which is attacked at every budget and shows how far that holds.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their labels (B,).
        attack: `attack(model, x, y, *, eps, norm, seed, [trace,] …) -> x_adv`.
        prefix: what the columns' names begin with, e.g. "pgd_l2".
        eps: radii of the balls.
        norm: "l2" or "linf".
        seed: of the attack's random draws.
        arguments: further keyword arguments of the attack.
        extra: further per-example numbers that the attack puts into its trace, by name.
        search: precision of the attack's own passes, see `AttackCall`.
        confirm: share of the examples in [0, 1] that are attacked at every budget; 1 attacks all of them.

    Returns:
        For each budget `<prefix>_<eps>_` + `robust` (B,) bool, `distance` (B,), `refused`, `inferred` and `missed` (B,)
        bool, `adversarial` (B, C, H, W; x itself where not broken), and `broken_by`, a list of B strings: "" robust,
        "clean" misclassified without attack, else the stage that the attack names in trace["broken_by"], or prefix.
        An extra flag or count is zero, an extra value NaN, for examples that were not attacked at that budget.

    Raises:
        UsageError: a budget is out of range, or `search` is something else.
        BenchError: something was not finite: the model cannot be judged.
    """
    call = AttackCall(attack, prefix, norm, seed, arguments, extra or {}, search, confirm)
    budgets = check_budgets(prefix, eps, norm, x.shape[1:])
    columns: dict[str, Tensor | list[str]] = {}
    for result in attack_budgets(call, model, x, y, budgets):
        name, state = f"{prefix}_{result.eps:g}", result.state
        columns[f"{name}_robust"], columns[f"{name}_distance"] = state.robust, state.distance
        columns[f"{name}_adversarial"], columns[f"{name}_broken_by"] = state.adversarial, state.broken_by
        columns[f"{name}_refused"] = result.refused
        columns[f"{name}_inferred"], columns[f"{name}_missed"] = result.inferred, result.missed
        columns |= {f"{name}_{extra_name}": values for extra_name, values in result.extra.items()}
    return columns


def describe_columns(
    attack: str, norm: str, source: str, prefix: str, *, ranks: int = 0, csv_interval: bool = True
) -> dict[str, Column]:
    """Return what `robust_columns` gives, by pattern of the name.

    Args:
        attack: the attack's name.
        norm: "l2" or "linf".
        source: paper and place.
        prefix: what the columns' names begin with, e.g. "pgd_l2".
        ranks: the attack's preference for ranking.
        csv_interval: whether leaderboard.csv holds the ends of the interval beside the number.
    """
    params = {"norm": norm, "attack": attack}
    inside, name = f"{NORM_FORMULAS[norm]} ≤ eps, x' in [0, 1]", f"{prefix}_{{eps}}"
    return {
        f"{name}_robust": Column(
            f"Correctly classified, and {attack} finds no adversarial example within eps ({norm}). What withstands it "
            "in a larger ball counts as robust in the smaller ones; a random share is attacked there all the same.",
            kind="flag",
            board=name,
            aggregate="fraction",
            direction="higher",
            formula=f"argmax f(x') = y for the x' that {attack} returns, {inside}",
            source=source,
            role="robust",
            params=params,
            interval="wilson",
            ranks=ranks,
            csv_interval=csv_interval,
        ),
        f"{name}_distance": Column(
            "Size of the perturbation that broke the example; 0 if it is misclassified without one, missing if robust.",
            unit=f"{norm} norm on [0, 1] pixels",
            direction="higher",
            formula=NORM_FORMULAS[norm],
            source=source,
            role="distance",
            params=params,
        ),
        f"{name}_broken_by": Column(
            'The stage that broke the example first: "clean" without attack, empty if robust.',
            kind="text",
            source=source,
            role="broken_by",
            params=params,
        ),
        f"{name}_adversarial": Column(
            "The adversarial example; the image itself where robust.",
            source=source,
            role="adversarial",
            params=params,
        ),
        **_describe_search(attack, norm, source, name, params),
    }


def _describe_search(attack: str, norm: str, source: str, name: str, params: Mapping[str, str]) -> dict[str, Column]:
    """Return the columns that say how an example was searched, by pattern of the name; arguments as above."""
    inside = f"{NORM_FORMULAS[norm]} ≤ eps, x' in [0, 1]"
    return {
        f"{name}_refused": Column(
            "The attack returned a misclassified point that does not hold (outside the ball, or right again when "
            "asked anew in float32); counted as not broken.",
            kind="flag",
            aggregate="sum",
            direction="none",
            formula=f"misclassified, but not ({inside})",
            source="docs: how we measure",
            role="refused",
            params=params,
            shown=False,
        ),
        f"{name}_inferred": Column(
            f"Counted robust because {attack} failed in a larger ball; not attacked in this one.",
            kind="flag",
            aggregate="sum",
            direction="none",
            source=source,
            role="inferred",
            params=params,
            shown=False,
        ),
        f"{name}_missed": Column(
            f"{attack} failed in this ball and broke the example in a smaller one, which counts here too.",
            kind="flag",
            aggregate="sum",
            direction="lower",
            source=source,
            role="missed",
            params=params,
            shown=False,
        ),
    }
