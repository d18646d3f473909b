"""What rows and boards are made of: numbers, runs, places aside, pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bench.store.plan_record import RunRecord

BRACKET: Final = "bracket_{norm}_{eps}"  # the column that says a bracket in words


@dataclass(frozen=True)
class Cell:
    """One number of the board.

    Attributes:
        value: mean over seeds of the per-seed values; None where missing.
        low: lower end of its 95 % interval, None where it has none.
        high: upper end.
        by_seed: the per-seed values.
        n: images behind each per-seed value.
        nulls: images whose value is missing (a null gradient, say), over all seeds.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    by_seed: dict[int, float] = field(default_factory=dict)
    n: int = 0
    nulls: int = 0


@dataclass(frozen=True)
class RunFacts:
    """One defense and seed: its entry in the plan, and what the store knows of its cells.

    Attributes:
        entry: the plan's entry: base, description, source, hyper-parameters, recipe, cells …
        training: counts and hashes of its training; empty if it is not trained.
        status: evaluation to the state of its cell.
        info: evaluation to the counts of its cell.
    """

    entry: RunRecord
    training: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Apart:
    """The place of a randomised row among the randomised rows: which it is, its range, and how many there are."""

    rank: int
    rank_low: int
    rank_high: int
    of: int


@dataclass(frozen=True)
class Pair:
    """Two ranked defenses on the same images by the ranking column; `a` ranks above `b`.

    Attributes:
        a: defense above.
        b: defense below.
        difference: value of a minus value of b.
        low: lower end of the interval of the difference (bootstrap over images), adjusted by the same step as p_holm:
            it holds 0 if and only if p_holm ≥ 0.05.
        high: upper end.
        p: exact two-sided p, unadjusted.
        p_holm: the same, Holm-adjusted over all pairs of the board.
        n: images that both have.
        only_a: images on which a is right with more of its seeds.
        only_b: images on which b is.
        discordance: share of images that tells the two apart (mean of the squared difference per image).
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    only_a: int
    only_b: int
    discordance: float = 0.0


@dataclass(frozen=True)
class Bracket:
    """What is known of a row at a budget, whatever attacks are still to come.

    Attributes:
        proved: share of images proved right within eps, mean over seeds.
        unbroken: share that nothing has broken, mean over seeds.
        n: images.
        eps: the budget, in the board's norm.
        rank_low: best place that it can hold however the unknown images turn out; None where it is not ranked.
        rank_high: worst place likewise.
    """

    proved: float
    unbroken: float
    n: int
    eps: float
    rank_low: int | None = None
    rank_high: int | None = None

    def told(self, pattern: str) -> int | str | None:
        """Return what it says in one of the board's columns; None if nothing.

        Args:
            pattern: of the column's name.
        """
        if pattern == BRACKET:
            return str(self)
        return self.rank_low if pattern.startswith("proved_rank_low") else self.rank_high

    def __str__(self) -> str:
        """Return "proved ≥ 38.2, broken ≤ 46.0, unknown 7.8": per cent proved, unbroken, and neither."""
        unknown = self.unbroken - self.proved
        return f"proved ≥ {self.proved:.1%}, broken ≤ {self.unbroken:.1%}, unknown {unknown:.1%}".replace("%", "")
