"""From an attack's proposals to per-example columns, budget by budget."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, UsageError
from bench.core.records import Column
from bench.core.torch_state import tf32
from bench.measuring.judge import TOLERANCE, JudgedBatch, judge, predict

DEFAULT_EPS: Final = {"l2": (0.5,), "linf": (8 / 255,)}  # RobustBench's budgets
Search = Literal["fp32", "tf32"]
NORM_WORDS: Final = {"l2": "‖x' − x‖₂", "linf": "‖x' − x‖∞"}


def check_budgets(where: str, eps: Sequence[float], norm: str, shape: Sequence[int]) -> list[float]:
    """Return the budgets in rising order, each once.

    Raises:
        UsageError: none given, or one that is negative, not finite, or larger than the whole box.
    """
    budgets = sorted({float(e) for e in ([eps] if isinstance(eps, int | float) else eps)})
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(shape))
    for e in budgets:
        if not math.isfinite(e) or e < 0 or e > largest * (1 + TOLERANCE):
            raise UsageError(
                f"{where}: expected every eps between 0 and {largest:g} (pixels are in [0, 1]), got {e:g}. "
                'For 8 of 255 levels write "8/255".'
            )
    if not budgets:
        raise UsageError(f"{where}: expected at least one eps, got none. Write eps = [0.5].")
    return budgets


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
    arguments: dict[str, Any],
    extra: Mapping[str, Column] | None = None,
    search: Search = "fp32",
) -> dict[str, Any]:
    """Attack every correctly classified example at every budget, smallest first, and return the columns.

    An example broken at one budget is broken at the larger ones by the same point, and is not attacked again.

    Args:
        attack: `attack(model, x, y, *, eps, norm, seed, [trace,] …) -> x_adv`.
        prefix: what the columns' names begin with, e.g. "pgd_l2".
        arguments: further keyword arguments of the attack.
        extra: further per-example numbers that the attack puts into its trace, by name.
        search: "fp32", or "tf32" for the attack's own passes on a GPU; fp32 judges its points. Examples that only
            tf32 takes for broken are attacked again in fp32, so that no rounding passes for robustness.

    Returns:
        For each budget `<prefix>_<eps>_` + `robust` (B,) bool, `distance` (B,), `refused` (B,) bool,
        `adversarial` (B, C, H, W; x itself where not broken), and `broken_by`, a list of B strings: "" robust,
        "clean" misclassified without attack, else the stage that the attack tells in trace["broken_by"], or prefix.
        An extra flag or count is zero, an extra value NaN, for examples that were not attacked at that budget.

    Raises:
        UsageError: a budget is out of range, or `search` is something else.
        BenchError: something was not finite: the model cannot be judged.
    """
    _check_search(prefix, search)
    budgets = check_budgets(prefix, eps, norm, x.shape[1:])
    settings, facts = {"norm": norm, "seed": seed, **arguments}, ["broken_by", *(extra or {})]
    known = _Known.of(model, x, y)
    columns: dict[str, Any] = {}
    for budget in budgets:
        more = {fact: _not_attacked(column, x) for fact, column in (extra or {}).items()}
        refused, rows = torch.zeros_like(known.robust), known.robust.nonzero()[:, 0]
        if len(rows) and budget > 0:
            verdict, trace = _attacked(attack, model, x[rows], y[rows], search, facts, eps=budget, **settings)
            refused[rows] = verdict.refused | (_claimed(trace, rows) & ~verdict.broken)
            for fact, values in more.items():
                if fact not in trace:
                    raise BenchError(f"{prefix}: expected {fact!r} in the attack's trace, got {sorted(trace)}. Add it.")
                values[rows] = torch.as_tensor(trace[fact], dtype=values.dtype, device=x.device)
            known.learn(rows, verdict, trace.get("broken_by"), prefix)
        name = f"{prefix}_{budget:g}"
        columns |= {f"{name}_{fact}": value for fact, value in known.columns().items()}
        columns |= {f"{name}_refused": refused} | {f"{name}_{fact}": values for fact, values in more.items()}
    return columns


def _not_attacked(column: Column, x: Tensor) -> Tensor:
    """Return the extra column (B,) of a batch of which no example has been attacked."""
    if column.kind == "value":
        return torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
    return torch.zeros(len(x), dtype=torch.bool if column.kind == "flag" else torch.long, device=x.device)


@dataclass
class _Known:
    """What is known of a batch so far: grows with the budget."""

    robust: Tensor  # bool (B,)
    distance: Tensor  # (B,), of the perturbation that broke the example; NaN where robust
    adversarial: Tensor  # (B, C, H, W)
    by: list[str]

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, y: Tensor) -> _Known:
        """Return what the clean images tell."""
        robust = predict(model, x) == y
        distance = torch.where(robust, torch.nan, 0.0).to(x.dtype)
        return cls(robust, distance, x.clone(), ["" if ok else "clean" for ok in robust.tolist()])

    def learn(self, rows: Tensor, verdict: JudgedBatch, stages: Sequence[str] | None, prefix: str) -> None:
        """Take note of what an attack on the examples `rows` was worth."""
        hit = rows[verdict.broken]
        self.robust[hit] = False
        self.distance[hit] = verdict.distance[verdict.broken]
        self.adversarial[hit] = verdict.point[verdict.broken]
        for i in verdict.broken.nonzero()[:, 0].tolist():
            self.by[int(rows[i])] = (stages[i] if stages else "") or prefix

    def columns(self) -> dict[str, Any]:
        """Return copies, by the ends of the columns' names."""
        return {
            "robust": self.robust.clone(), "distance": self.distance.clone(),
            "adversarial": self.adversarial.clone(), "broken_by": list(self.by),
        }  # fmt: skip


def _check_search(where: str, search: str) -> None:
    if search not in get_args(Search):
        raise UsageError(f"{where}: expected search to be {' or '.join(get_args(Search))}, got {search!r}. Write fp32.")


def _claimed(trace: Mapping[str, Any], rows: Tensor) -> Tensor:
    """Return which of the examples `rows` (B,) an attack names a stage for that broke it, bool (B,)."""
    if "broken_by" not in trace:
        return torch.zeros_like(rows, dtype=torch.bool)
    return torch.tensor([stage != "" for stage in trace["broken_by"]], device=rows.device)


def _attacked(
    attack: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, search: Search, facts: Sequence[str],
    *, eps: float, norm: str, **settings: Any,
) -> tuple[JudgedBatch, dict[str, Any]]:  # fmt: skip
    """Return the verdict on an attack's points, and of its trace what tells `facts` of each example."""
    settings |= {"eps": eps, "norm": norm}
    if search == "fp32":
        point, trace = _run(attack, model, x, y, **settings)
        return judge(model, x, y, point, eps=eps, norm=norm), trace
    with tf32(True):
        point, trace = _run(attack, model, x, y, **settings)
        verdict = judge(model, x, y, point, eps=eps, norm=norm)
        with torch.no_grad():
            claimed = (model(verdict.point).argmax(1) != y) | _claimed(trace, y)
    if "margin" in trace:  # by it our attacks decide that an example needs no more steps
        claimed |= trace["margin"] > 0
    rows = (claimed & ~verdict.broken).nonzero()[:, 0]
    if not len(rows):
        return verdict, trace
    better, again = _run(attack, model, x[rows], y[rows], **settings)
    for fact in set(facts) & again.keys():
        for row, value in zip(rows.tolist(), again[fact], strict=True):
            trace[fact][row] = value
    return judge(model, x, y, point.index_copy(0, rows, better), eps=eps, norm=norm), trace


def _run(
    attack: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, **settings: Any
) -> tuple[Tensor, dict[str, Any]]:
    """Return an attack's points and its trace, empty if it keeps none.

    Raises:
        BenchError: something was not finite.
    """
    trace: dict[str, Any] = {}
    if "trace" in inspect.signature(attack).parameters:
        settings["trace"] = trace
    try:
        return attack(model, x, y, **settings), trace
    except FloatingPointError as error:
        raise BenchError(str(error)) from error


def describe_columns(
    attack: str, norm: str, source: str, prefix: str, ranks: int = 0, csv_interval: bool = True
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
    inside, name = f"{NORM_WORDS[norm]} ≤ eps, x' in [0, 1]", f"{prefix}_{{eps}}"
    return {
        f"{name}_robust": Column(
            f"Correctly classified, and {attack} finds no adversarial example within eps ({norm}).",
            kind="flag", board=name, aggregate="fraction", direction="higher",
            formula=f"argmax f(x') = y for the x' that {attack} returns, {inside}", source=source,
            role="robust", params=params, interval="wilson", ranks=ranks, csv_interval=csv_interval,
        ),
        f"{name}_distance": Column(
            "Size of the perturbation that broke the example; 0 if it is misclassified without one, missing if robust.",
            unit=f"{norm} norm on [0, 1] pixels", direction="higher", formula=NORM_WORDS[norm], source=source,
            role="distance", params=params,
        ),
        f"{name}_broken_by": Column(
            'The stage that broke the example first: "clean" without attack, empty if robust.',
            kind="text", source=source, role="broken_by", params=params,
        ),
        f"{name}_refused": Column(
            "The attack returned a misclassified point that does not hold (outside the ball, or right again when "
            "asked anew in float32); counted as not broken.",
            kind="flag", aggregate="sum", direction="none", formula=f"misclassified, but not ({inside})",
            source="docs: how we measure", role="refused", params=params, shown=False,
        ),
        f"{name}_adversarial": Column(
            "The adversarial example; the image itself where robust.", source=source, role="adversarial", params=params,
        ),
    }  # fmt: skip
