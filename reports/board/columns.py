"""The columns of the board: what each is, in which order they come, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from bench.core.records import Column, Role, ThreatModel

Form: TypeAlias = Literal["fraction", "value", "count", "seconds", "ratio", "text"]


@dataclass(frozen=True)
class BoardColumn:
    """One column of the board: its name, what it is, and where it comes from.

    Attributes:
        name: as in leaderboard.csv, e.g. "pgd_l2_0.1".
        facts: the per-example column behind it, with its role, parameters, interval and prose.
        evaluation: key of the evaluation in the plan; "" for the board's own columns (rank, cost …).
        example_column: name of the per-example column behind it; "" for the board's own.
        split: "test" or "train": the images it is measured on.
        heading: its name for readers, without its level.
        form: how its numbers are written.
        detail: what a reader must know of its numbers beside the heading, e.g. "× standard".
        images: how many images it was measured on, the most of any run; 0 for the board's own.
    """

    name: str
    facts: Column
    evaluation: str = ""
    example_column: str = ""
    split: str = "test"
    heading: str = ""
    form: Form = "value"
    detail: str = ""
    images: int = 0

    @property
    def level(self) -> float | None:
        """The budget, radius or strength that it was measured at; None without one."""
        return None if self.facts.level is None else self.facts.level[1]

    @property
    def level_name(self) -> str:
        """The name of that parameter, e.g. "eps"; "" without one."""
        return "" if self.facts.level is None else self.facts.level[0]

    @property
    def family(self) -> tuple[object, ...]:
        """What columns of one quantity at several levels have in common."""
        others = sorted((k, v) for k, v in self.facts.params.items() if k != self.level_name)
        return self.evaluation, self.split, self.facts.pattern, *others


def families(columns: Iterable[BoardColumn]) -> list[tuple[BoardColumn, ...]]:
    """Return the quantities that were measured at several levels, each by rising level.

    Args:
        columns: in the board's order, which is kept among the families.
    """
    found: dict[tuple[object, ...], list[BoardColumn]] = {}
    for column in columns:
        if column.level is not None:
            found.setdefault(column.family, []).append(column)
    return [tuple(sorted(family, key=lambda c: c.level or 0.0)) for family in found.values() if len(family) > 1]


def with_role(columns: Iterable[BoardColumn], *roles: Role, split: str = "test") -> list[BoardColumn]:
    """Return the measured columns that have one of some roles.

    Args:
        columns: in the board's order, which is kept.
        roles: what the columns are for.
        split: "test" or "train".
    """
    return [c for c in columns if c.facts.role in roles and c.split == split]


def ranking_column(columns: Iterable[BoardColumn], threat: ThreatModel | None) -> BoardColumn | None:
    """Return the column that ranks: robust at the threat, with the highest preference; None without one.

    Args:
        columns: in the plan's order, which decides between equal preferences.
        threat: norm and radius that rank; None: nothing does.
    """
    if threat is None:
        return None
    robust = [c for c in with_role(columns, "robust") if c.facts.ranks > 0 and threat.matches(c.facts)]
    return max(robust, key=lambda c: c.facts.ranks, default=None)


_TIES = "McNemar 1947 (exact; sign flips with several seeds), Holm 1979"
_CLOCK = "the run's own clock: CPU time on a CPU, CUDA events on a GPU"
_COUNTER = "the run's own counter, by hooks on the model"
_MEAN = "mean over seeds"
_SUM = "sum over evaluations, mean over seeds"

# The board's own columns before the measured ones.
IDENTITY: tuple[BoardColumn, ...] = (
    BoardColumn(
        "rank",
        Column(
            "Place by the ranking column; equal values share a place.",
            "place",
            "count",
            direction="lower",
            formula="1 + number strictly better",
        ),
        heading="Rank",
        form="count",
    ),
    BoardColumn(
        "rank_low",
        Column(
            "Best place it can hold.",
            "place",
            "count",
            direction="lower",
            formula="1 + number significantly better (Holm over all pairs, 5 %)",
            source=_TIES,
        ),
        heading="Best rank",
        form="count",
    ),
    BoardColumn(
        "rank_high",
        Column(
            "Worst place it can hold.",
            "place",
            "count",
            direction="lower",
            formula="K − number significantly worse (Holm over all pairs, 5 %)",
            source=_TIES,
        ),
        heading="Worst rank",
        form="count",
    ),
    BoardColumn(
        "defense",
        Column("Name of the defense, with the hyper-parameters that differ from its defaults.", kind="text"),
        heading="Defense",
        form="text",
    ),
    BoardColumn(
        "seeds",
        Column(
            "Number of trained models (training seeds) behind the numbers; values are means over them.",
            "models",
            "count",
            shown=False,
        ),
        heading="Seeds",
        form="count",
    ),
    BoardColumn(
        "n",
        Column("Distinct test images of the ranking column.", "images", "count", shown=False),
        heading="Images",
        form="count",
    ),
)

# After them, where there are randomised rows.
RANDOMISED: tuple[BoardColumn, ...] = (
    BoardColumn(
        "rank_randomised",
        Column(
            "Place among the randomised rows, which are judged by votes over draws and hold no other place.",
            "place",
            "count",
            direction="lower",
            formula="1 + number of randomised rows strictly better",
            shown=False,
        ),
        heading="Rank by votes",
        form="count",
    ),
)

# After them, where trust was assessed.
TRUST: tuple[BoardColumn, ...] = (
    BoardColumn(
        "trust",
        Column(
            "Grade of the checks: A, B, C (upper bound only) or INVALID (not ranked).",
            "grade",
            "text",
            formula="the worst grade over the seeds",
        ),
        heading="Trust",
        form="text",
    ),
    BoardColumn(
        "trust_failed",
        Column("Checks that failed, separated by semicolons.", "names", "text", shown=False),
        heading="Failed checks",
        form="text",
    ),
)

# Last.
COST: tuple[BoardColumn, ...] = (
    BoardColumn(
        "train_flops",
        Column(
            "Counted operations of training relative to Standard's in the same run; no other work can move it.",
            "ratio",
            direction="lower",
            formula="operations of convolutions, products, inverses and Fourier transforms per training image, over "
            "those of Standard",
            source="the run's own counter of dispatched operations",
        ),
        heading="Training cost, counted",
        form="ratio",
        detail="× standard",
    ),
    BoardColumn(
        "train_seconds",
        Column(
            "CPU or GPU time of training one model; missing where other programs had the GPU.",
            "s",
            direction="lower",
            formula=_MEAN,
            source=_CLOCK,
            shown=False,
        ),
        heading="Training time",
        form="seconds",
    ),
    BoardColumn(
        "train_cost",
        Column(
            "Training time relative to Standard's in the same run; missing where the machine was too busy to tell.",
            "ratio",
            direction="lower",
            formula="mean over seeds of the ratio to Standard's training with the same seed",
            source=_CLOCK,
        ),
        heading="Training cost, time",
        form="ratio",
        detail="× standard",
    ),
    BoardColumn(
        "eval_seconds",
        Column("CPU or GPU time of all evaluations of one model.", "s", formula=_SUM, source=_CLOCK, shown=False),
        heading="Evaluation time",
        form="seconds",
    ),
    BoardColumn(
        "eval_forwards",
        Column(
            "Images passed forward in all evaluations of one model.",
            "images",
            "count",
            formula=_SUM,
            source=_COUNTER,
            shown=False,
        ),
        heading="Forward passes",
        form="count",
    ),
    BoardColumn(
        "eval_backwards",
        Column(
            "Images passed backward in all evaluations of one model.",
            "images",
            "count",
            formula=_SUM,
            source=_COUNTER,
            shown=False,
        ),
        heading="Backward passes",
        form="count",
    ),
)
# What a reader must know of the model itself.
MODEL: tuple[BoardColumn, ...] = (
    BoardColumn(
        "title", Column("Name of the defense for readers.", kind="text", shown=False), heading="Name", form="text"
    ),
    BoardColumn(
        "architecture",
        Column("Network that the defense was trained on, or was handed over as.", kind="text", shown=False),
        heading="Architecture",
        form="text",
    ),
    BoardColumn(
        "parameters",
        Column("Trained numbers of one model.", "numbers", "count", shown=False),
        heading="Parameters",
        form="count",
    ),
    BoardColumn("venue", Column("Where its paper appeared.", kind="text", shown=False), heading="Venue", form="text"),
    BoardColumn("year", Column("When its paper appeared.", kind="count", shown=False), heading="Year", form="count"),
    BoardColumn("link", Column("Address of its paper.", kind="text", shown=False), heading="Paper", form="text"),
)
OWN: tuple[BoardColumn, ...] = (*IDENTITY, *RANDOMISED, *TRUST, *COST, *MODEL)


def in_order(
    measured: list[BoardColumn], trust: bool, randomised: bool = False, brackets: Sequence[BoardColumn] = ()
) -> tuple[BoardColumn, ...]:
    """Return all columns in the order of leaderboard.csv: who, what was measured, trust, violations, cost, the model.

    Args:
        measured: the measured columns. The first that counts violations becomes one of the board's own, like trust.
        trust: whether trust was assessed.
        randomised: whether a row is ranked among the randomised ones.
        brackets: those of the budgets at which anything is proved.
    """
    violations = with_role(measured, "violations")[:1]
    rest = [c for c in measured if c not in violations]
    own = [replace(c, evaluation="", form="count", images=0) for c in violations]
    aside = RANDOMISED if randomised else ()
    return (*IDENTITY, *aside, *rest, *brackets, *(TRUST if trust else ()), *own, *COST, *MODEL)
