"""The result of comparing two defenses column by column on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Discordant:
    """One image on which the two differ: the share of a's and of b's models that are right."""

    index: int
    label: int
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One board column of two defenses on the same images.

    Attributes:
        a: the first, a defense or a folder: the one compared with.
        b: the second; `difference` is b − a.
        defense: the defense that two folders are compared on; "" if a and b are defenses.
        column: name on the board.
        direction: which way is better.
        a_value: mean over seeds and the common images.
        b_value: likewise.
        difference: b_value − a_value.
        low: lower end of its interval (bootstrap over images), adjusted by the same step as p_holm: it holds 0 if and
            only if p_holm ≥ 0.05.
        high: upper end.
        p: exact two-sided p (sign-flip test with 10,000 draws for a number that is no fraction).
        p_holm: the same, Holm-adjusted over all fractions (or all other numbers) that this command compares.
        n: common images.
        verdict: of b, at 5 % after adjustment.
        gates: whether a loss here is a regression: fractions gate, other numbers inform.
        discordant: the images on which they differ, for fractions.
    """

    a: str
    b: str
    defense: str
    column: str
    direction: str
    a_value: float
    b_value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    verdict: Verdict
    gates: bool
    discordant: tuple[Discordant, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether b is worse where it counts."""
        return self.gates and self.verdict == "worse"


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All comparisons of one command.

    Attributes:
        comparisons: with their verdicts.
        skipped: what could not be compared, with the reason.
        notes: what the compared rows lack of their seeds, images or evaluations.
    """

    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Comparison, ...]:
        """The comparisons in which b has become worse."""
        return tuple(c for c in self.comparisons if c.regression)
