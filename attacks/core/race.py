"""A race of attacks: what each stage reached, what is lacking to break an example, and who is still hopeful."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.attacks.core import search
from bench.attacks.core.trace import Trace


class Race:
    """The examples of a batch and how far the stages of a race came on each.

    Attributes:
        best: the worst points met.
        broken_by: the stage that broke each example; "clean" where none was needed, "" where none did.
        nearest: smallest norm of a misclassified point that a stage met, inside the ball or not, (B,); else infinity.
        overtaken: the last stage came farther than all before it, bool (B,).
    """

    def __init__(self, where: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Start at the clean images x (B, C, H, W) with labels y (B,); `where` names the attack in messages."""
        self._model, self._x, self._y = model, x, y
        self.best = search.Best(where, model, x, y)
        self._start = self.best.margin.clone()
        self.broken_by = ["clean" if wrong else "" for wrong in (self.best.margin > 0).tolist()]
        self.nearest = torch.full_like(self.best.margin, torch.inf)
        self.overtaken = torch.zeros_like(self.best.stopped)

    @property
    def lacking(self) -> Tensor:
        """What is lacking to break each example as a share of the margin gained, (B,); infinity where none was."""
        gained = self.best.margin - self._start
        return torch.where(gained > 0, -self.best.margin / gained, torch.inf)

    def hopeful(self, near: float, eps: float) -> Tensor:
        """Return which examples are not broken and may still be, bool (B,).

        Args:
            near: largest share of the gain that may be lacking, or by which `nearest` may exceed the radius.
            eps: radius of the ball.
        """
        close = (self.lacking <= near) | (self.nearest <= (1 + near) * eps) | self.overtaken
        return close & ~self.best.stopped

    def run(self, rows: Tensor, attack: Callable[..., Tensor], name: str) -> None:
        """Attack some examples, and keep what is worse than what was known of them.

        Args:
            rows: their places in the batch, (n,); may be none.
            attack: `attack(x, y, trace=…) -> x_adv`.
            name: of the stage; a colon at its end is followed by the stage that the attack's trace names.
        """
        if not len(rows):
            return
        trace: Trace = {}
        x_adv = attack(self._x[rows], self._y[rows], trace=trace)
        before = self.best.margin[rows]
        margin = self.best.update(rows, x_adv, search.predict(self._model, x_adv))
        better = margin > before + search.slack(self.best.logits[rows])
        self.overtaken = torch.zeros_like(self.overtaken).index_fill(0, rows[better], True)
        if isinstance(nearest := trace.get("nearest"), Tensor):
            self.nearest[rows] = torch.minimum(self.nearest[rows], nearest)
        stages = trace.get("broken_by", [""] * len(rows))
        won = (margin > before) & (margin > 0)
        for row, stage, is_won in zip(rows.tolist(), stages, won.tolist(), strict=True):
            self.broken_by[row] = f"{name}{stage}" if is_won else self.broken_by[row]
