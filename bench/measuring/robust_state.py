"""What is known of a batch's robustness, budget by budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

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
        """Add the verdict on an attack.

        Args:
            rows: places of the n attacked examples in the batch.
            judged: the verdict on them.
            stages: the stage that the attack names for each, n strings; or none at all.
            default: stands for a stage that the attack does not name.
        """
        hit = rows[judged.broken]
        self.robust[hit] = False
        self.distance[hit] = judged.distance[judged.broken]
        self.adversarial[hit] = judged.x_adv[judged.broken]
        for i in judged.broken.nonzero()[:, 0].tolist():
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
        extra: the attack's further numbers at this budget, (B,) each; zero, or NaN for a value, where not attacked.
    """

    eps: float
    state: RobustState
    refused: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def attack_budgets(
    call: AttackCall, model: nn.Module, x: Tensor, y: Tensor, budgets: Sequence[float]
) -> Iterator[BudgetResult]:
    """Attack every correctly classified example at every budget, and yield what is known after each.

    An example broken at one budget is broken at the larger ones by the same point, and is not attacked again.

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
    for eps in budgets:
        extra = {name: _not_attacked(column, x) for name, column in call.extra.items()}
        refused, rows = torch.zeros_like(state.robust), state.robust.nonzero()[:, 0]
        if len(rows) and eps > 0:
            judged, trace = call.run(model, x[rows], y[rows], eps)
            refused[rows] = judged.refused | (claimed_broken(trace, rows) & ~judged.broken)
            for name, values in extra.items():
                if name not in trace:
                    raise BenchError(
                        f"{call.prefix}: expected {name!r} in the attack's trace, got {sorted(trace)}. Add it."
                    )
                values[rows] = torch.as_tensor(trace[name], dtype=values.dtype, device=x.device)
            state.update(rows, judged, list(trace.get("broken_by", [])), call.prefix)
        yield BudgetResult(eps, state.copy(), refused, extra)


def _not_attacked(column: Column, x: Tensor) -> Tensor:
    """Return the extra column (B,) of a batch of which no example has been attacked."""
    if column.kind == "value":
        return torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
    return torch.zeros(len(x), dtype=torch.bool if column.kind == "flag" else torch.long, device=x.device)
