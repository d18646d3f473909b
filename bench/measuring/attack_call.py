"""One call of an attack, in the precision of its search, and the judge's verdict on its points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import torch
from torch import Tensor, nn

from bench.attacks.core.trace import Trace
from bench.core.errors import BenchError, UsageError
from bench.core.records import Column
from bench.core.torch_state import tf32
from bench.measuring.judge import JudgedBatch, judge

Search = Literal["fp32", "tf32"]
CONFIRM: Final = 0.1


@dataclass(frozen=True)
class AttackCall:
    """An attack with everything but model, images and budget.

    Attributes:
        function: `attack(model, x, y, *, eps, norm, seed, [trace,] …) -> x_adv`.
        prefix: what the columns' names and messages begin with, e.g. "pgd_l2".
        norm: "l2" or "linf".
        seed: of its random draws.
        arguments: further keyword arguments.
        extra: further per-example numbers that it puts into its trace, by name.
        search: "fp32", or "tf32" for the attack's own passes on a GPU; fp32 judges its points. Examples that only
            tf32 takes for broken are attacked again in fp32, so that no rounding passes for robustness.
    """

    function: Callable[..., Tensor]
    prefix: str
    norm: str
    seed: int
    arguments: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, Column] = field(default_factory=dict)
    search: Search = "fp32"
    confirm: float = CONFIRM

    def __post_init__(self) -> None:
        """Refuse an unknown precision of the search.

        Raises:
            UsageError: `search` is neither "fp32" nor "tf32".
        """
        if self.search not in get_args(Search):
            known = " or ".join(get_args(Search))
            raise UsageError(f"{self.prefix}: expected search to be {known}, got {self.search!r}. Write fp32.")

    def run(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[JudgedBatch, Trace]:
        """Return the verdict on the attack's points, and its trace.

        Args:
            model: network in eval mode, images to logits (B, K).
            x: clean images (B, C, H, W) in [0, 1].
            y: their labels (B,).
            eps: radius of the ball.

        Raises:
            BenchError: something was not finite.
        """
        if self.search == "fp32":
            x_adv, trace = self._propose(model, x, y, eps)
            return judge(model, x, y, x_adv, eps=eps, norm=self.norm), trace
        with tf32(True):
            x_adv, trace = self._propose(model, x, y, eps)
            judged = judge(model, x, y, x_adv, eps=eps, norm=self.norm)
            with torch.no_grad():
                claimed = (model(judged.x_adv).argmax(1) != y) | claimed_broken(trace, y)
        if isinstance(margin := trace.get("margin"), Tensor):  # by it our attacks decide that an example needs no steps
            claimed |= margin > 0
        rows = (claimed & ~judged.broken).nonzero()[:, 0]
        if not len(rows):
            return judged, trace
        better, again = self._propose(model, x[rows], y[rows], eps)
        for name in {"broken_by", *self.extra} & again.keys():
            values = trace[name]
            for row, value in zip(rows.tolist(), again[name], strict=True):
                values[row] = value  # type: ignore[call-overload]
        return judge(model, x, y, x_adv.index_copy(0, rows, better), eps=eps, norm=self.norm), trace

    def _propose(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Trace]:
        """Return the attack's points and its trace, empty if it keeps none.

        Raises:
            BenchError: something was not finite.
        """
        trace: Trace = {}
        tracing = {"trace": trace} if "trace" in inspect.signature(self.function).parameters else {}
        try:
            x_adv = self.function(model, x, y, eps=eps, norm=self.norm, seed=self.seed, **self.arguments, **tracing)
        except FloatingPointError as error:
            raise BenchError(str(error)) from error
        return x_adv, trace


def claimed_broken(trace: Trace, like: Tensor) -> Tensor:
    """Return for which examples an attack names a stage that broke it, bool, of the shape of `like` (B,)."""
    if "broken_by" not in trace:
        return torch.zeros_like(like, dtype=torch.bool)
    return torch.tensor([stage != "" for stage in trace["broken_by"]], device=like.device)
