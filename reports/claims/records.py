"""What a board says of the paper's numbers and claims, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ClaimVerdict = Literal["reproduced", "not reproduced", "undecided"]


@dataclass(frozen=True, slots=True)
class Published:
    """One published number beside ours.

    Attributes:
        defense: row of the paper's table and of the board.
        column: per-example column of ours that it is compared with; "train_cost" for training time.
        published: the paper's value, in the table's unit.
        spread: its ± over two runs, None where the paper prints none.
        value: ours, mean over seeds; None where not measured.
        low: lower end of its 95 % interval over images, None where it has none.
        high: upper end.
        by_seed: the seeds' own values.
        agrees: whether our interval meets published ± 2 spreads; None where not measured or without an interval.
    """

    defense: str
    column: str
    published: float
    spread: float | None
    value: float | None
    low: float | None
    high: float | None
    by_seed: dict[int, float]
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table of the paper beside ours; `numbers` in the order of the paper."""

    title: str
    source: str
    note: str
    columns: tuple[str, ...]
    numbers: tuple[Published, ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a claim: in words, and per seed whether it holds (None: undecided) with its numbers.

    Attributes:
        text: e.g. "curvature of lcnn < curvature of standard".
        by_seed: seed to True, False or None.
        numbers: seed to the measured quantity with its interval, in words.
        missing: what would be needed but was not measured, "" if nothing.
    """

    text: str
    by_seed: dict[int, bool | None]
    numbers: dict[int, str]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, its conditions, and the verdict on these trained models."""

    id: str
    title: str
    source: str
    conditions: tuple[Condition, ...]
    verdict: ClaimVerdict
    explanation: str
    footnotes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claims:
    """All that the board of a paper suite says about the paper.

    Attributes:
        paper: title, authors, venue, link.
        deviations: what this run does otherwise than the paper ("30 epochs instead of 200"): read verdicts with it.
        tables: published against measured.
        claims: the claims with verdicts.
        footnotes: (about, text) of the paper's own inconsistencies.
    """

    paper: Mapping[str, Any]
    deviations: tuple[str, ...]
    tables: tuple[PublishedTable, ...]
    claims: tuple[Claim, ...]
    footnotes: tuple[tuple[str, str], ...]
