"""What a race of attacks may have missed: the bound from images that it gave up and that were drawn all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd

from bench.core.records import Role
from bench.core.stats.intervals import clopper_pearson
from bench.reports.board.model import Board
from bench.reports.formatting import plural

ALPHA: Final = 0.1  # of a two-sided interval: its upper end is a 95 % bound


@dataclass(frozen=True, slots=True)
class RaceBound:
    """Verdicts of a raced attack on one defense, over all its models.

    Attributes:
        robust: images that count as robust.
        full: of them, those that the full attack could not break.
        sampled: images that the race had given up and that were drawn for the full attack.
        outrun: of the drawn ones, those that it broke.
    """

    robust: int
    full: int
    sampled: int
    outrun: int

    @property
    def upper(self) -> float | None:
        """Share of the other robust images that the full attack would break at most, 95 %; None: none was drawn."""
        return clopper_pearson(self.outrun, self.sampled, ALPHA)[1] if self.sampled else None

    @property
    def sentence(self) -> str:
        """What may be said of the race."""
        others = self.robust - self.full
        start = f"the full attack was run on {self.full} of the {plural(self.robust, 'image')} that count as robust"
        if not others:
            return f"{start}."
        if self.upper is None:
            return (
                f"{start}; none of those given up was drawn, so what it would break of the other {others} is unknown."
            )
        return (
            f"{start}, and broke {self.outrun} of {self.sampled} drawn at random among those that the race had given "
            f"up: it would break at most {100 * self.upper:.1f}\u00a0% of the other {others} (95\u00a0%)."
        )


def race_sentences(board: Board, table: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for every threat at which an attack was raced.

    Args:
        board: it says what the columns are for.
        table: per-example table of one defense.
    """
    for name in board.examples_with("race_sampled", among=table.columns):
        facts = board.facts[name]
        roles: tuple[Role, ...] = ("robust", "race_full", "race_outrun")
        same = {
            board.facts[other].role: other
            for other in board.examples_with(*roles, among=table.columns)
            if board.origins.get(other) == board.origins.get(name) and board.facts[other].params == facts.params
        }
        if len(same) < len(roles):
            continue
        known = table[[name, *same.values()]].dropna().astype(bool)
        robust = known[same["robust"]]
        bound = RaceBound(
            int(robust.sum()),
            int((robust & known[same["race_full"]]).sum()),
            int(known[name].sum()),
            int(known[same["race_outrun"]].sum()),
        )
        yield f"Raced AutoAttack, {facts.params['norm']} {facts.params['eps']:g}: {bound.sentence}"
