"""What a board says of the paper's numbers and claims, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        n: images behind ours; 0 for a cost.
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
    n: int = 0


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
        images: seed to the images behind it; empty for a cost.
        needed: seed to the smallest number of images that would decide it: at the published difference, where there is
            one, and the measured spread.
        missing: what would be needed but was not measured, "" if nothing.
    """

    text: str
    by_seed: dict[int, bool | None]
    numbers: dict[int, str]
    missing: str = ""
    images: dict[int, int] = field(default_factory=dict)
    needed: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, its conditions, and the verdict on these trained models.

    Attributes:
        id: its name in claims.toml.
        title: in our words.
        source: where the paper says it.
        conditions: what it says, each with its numbers.
        verdict: of all conditions on all seeds.
        explanation: why, and how many images would decide what is undecided.
        footnotes: what must be known of it.
        confidence: of each interval, so that all of a seed hold together with 95 %.
    """

    id: str
    title: str
    source: str
    conditions: tuple[Condition, ...]
    verdict: ClaimVerdict
    explanation: str
    footnotes: tuple[str, ...]
    confidence: float = 0.95


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
