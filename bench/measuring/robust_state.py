"""What is known of a batch's robustness, budget by budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, uniform
from bench.core.errors import BenchError
from bench.core.records import Column
from bench.measuring.attack_call import AttackCall, claimed_broken
from bench.measuring.judge import JudgedBatch, predict


@dataclass
class RobustState:
    """What is known of a batch so far; it grows with the budget.

    Attributes:
        robust: bool (B,).
        distance: size of the perturbation that broke the example, (B,); 0 where none was needed, NaN where robust.
        adversarial: (B, C, H, W), the clean image where robust.
        broken_by: the stage that broke each example; "clean" where none was needed, "" where robust.
    """

    robust: Tensor
    distance: Tensor
    adversarial: Tensor
    broken_by: list[str]

    @classmethod
    def clean(cls, model: nn.Module, x: Tensor, y: Tensor) -> RobustState:
        """Return what the clean images x (B, C, H, W) with labels y (B,) show."""
        robust = predict(model, x) == y
        distance = torch.where(robust, torch.nan, 0.0).to(x.dtype)
        return cls(robust, distance, x.clone(), ["" if ok else "clean" for ok in robust.tolist()])

    def update(self, rows: Tensor, judged: JudgedBatch, stages: Sequence[str], default: str) -> None:
        """Add the verdict on an attack; an example that is broken already keeps its point.

        Args:
            rows: places of the n attacked examples in the batch.
            judged: the verdict on them.
            stages: the stage that the attack names for each, n strings; or none at all.
            default: stands for a stage that the attack does not name.
        """
        new = judged.broken & self.robust[rows]
        hit = rows[new]
        self.robust[hit] = False
        self.distance[hit] = judged.distance[new]
        self.adversarial[hit] = judged.x_adv[new]
        for i in new.nonzero()[:, 0].tolist():
            self.broken_by[int(rows[i])] = (stages[i] if len(stages) else "") or default

    def copy(self) -> RobustState:
        """Return a copy that later updates do not change."""
        return RobustState(self.robust.clone(), self.distance.clone(), self.adversarial.clone(), list(self.broken_by))


@dataclass(frozen=True)
class BudgetResult:
    """What an attack showed at one budget and the smaller ones.

    Attributes:
        eps: the budget.
        state: robustness at this budget.
        refused: the attack's claim did not hold, bool (B,).
        inferred: counted robust because the attack failed in a larger ball; not attacked in this one, bool (B,).
        missed: the attack failed in this ball and broke the example in a smaller one, bool (B,).
        extra: the attack's further numbers at this budget, (B,) each; zero, or NaN for a value, where not attacked.
    """

    eps: float
    state: RobustState
    refused: Tensor
    inferred: Tensor
    missed: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Attacked:
    """One call of an attack at one budget.

    Attributes:
        rows: places of the n attacked examples in the batch.
        judged: the verdict on them.
        stages: the stage that the attack names for each, n strings; or none at all.
        refused: as in BudgetResult.
        extra: as in BudgetResult.
    """

    rows: Tensor
    judged: JudgedBatch | None
    stages: Sequence[str]
    refused: Tensor
    extra: Mapping[str, Tensor]


def attack_budgets(
    call: AttackCall, model: nn.Module, x: Tensor, y: Tensor, budgets: Sequence[float]
) -> Iterator[BudgetResult]:
    """Attack the correctly classified examples from the largest budget down, and yield what is known of each.

    A point inside a ball is inside every larger one. So an example that the attack breaks at one budget is broken at
    the larger ones by the same point; and one that it cannot break in a ball is taken to withstand it in the smaller
    ones. The first is exact. The second is not, since a search can fail in a ball and succeed in a smaller one: a
    share `call.confirm` of the examples, drawn by their pixels and the seed, is attacked at every budget all the same,
    and what that shows is returned as `missed` and counts at every budget that holds the point.

    Args:
        call: the attack.
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their labels (B,).
        budgets: radii in rising order.

    Yields:
        The result of each budget, in their order.

    Raises:
        BenchError: something was not finite, or an extra number is missing in the attack's trace.
    """
    state = RobustState.clean(model, x, y)
    confirmed = uniform(example_keys(x, call.seed), Stream.CONFIRMED_BUDGETS) < call.confirm
    attacked: dict[float, Attacked] = {}
    todo = state.robust
    for eps in reversed(budgets):
        attacked[eps] = _attack(call, model, x, y, eps, todo)
        todo = state.robust & (confirmed | _broken(attacked[eps], x))
    for eps in budgets:
        result = attacked[eps]
        own = _broken(result, x)
        was_attacked = torch.zeros_like(own).index_fill(0, result.rows, True)
        missed = ~state.robust & was_attacked & ~own
        if result.judged is not None:
            state.update(result.rows, result.judged, result.stages, call.prefix)
        inferred = state.robust & ~was_attacked & (eps > 0)
        yield BudgetResult(eps, state.copy(), result.refused, inferred, missed, result.extra)


def _attack(call: AttackCall, model: nn.Module, x: Tensor, y: Tensor, eps: float, todo: Tensor) -> Attacked:
    """Return what the attack does at one budget to the examples of a batch where `todo` (B,) is True.

    Raises:
        BenchError: something was not finite, or an extra number is missing in the attack's trace.
    """
    extra = {name: _not_attacked(column, x) for name, column in call.extra.items()}
    refused, rows = torch.zeros_like(todo), todo.nonzero()[:, 0]
    if not len(rows) or eps == 0:
        return Attacked(rows, None, [], refused, extra)
    judged, trace = call.run(model, x[rows], y[rows], eps)
    refused[rows] = judged.refused | (claimed_broken(trace, rows) & ~judged.broken)
    for name, values in extra.items():
        if name not in trace:
            raise BenchError(f"{call.prefix}: expected {name!r} in the attack's trace, got {sorted(trace)}. Add it.")
        values[rows] = torch.as_tensor(trace[name], dtype=values.dtype, device=x.device)
    return Attacked(rows, judged, list(trace.get("broken_by", [])), refused, extra)


def _broken(attacked: Attacked, x: Tensor) -> Tensor:
    """Return which examples of the batch x (B, …) a call of the attack broke, bool (B,)."""
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if attacked.judged is not None:
        broken[attacked.rows] = attacked.judged.broken
    return broken


def _not_attacked(column: Column, x: Tensor) -> Tensor:
    """Return the extra column (B,) of a batch of which no example has been attacked."""
    if column.kind == "value":
        return torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
    return torch.zeros(len(x), dtype=torch.bool if column.kind == "flag" else torch.long, device=x.device)
