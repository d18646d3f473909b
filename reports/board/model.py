"""The board as data: what the tables compute and what page, figures and exports show. One source for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.core.records import Column
from bench.store.plan_record import PlanRecord

if TYPE_CHECKING:
    from bench.reports.claims.verdicts import Claims


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
class Row:
    """One defense on the board.

    Attributes:
        rank: integer place by the ranking column (1 = best); None for a row that is not ranked.
        rank_low: best place it can hold, 1 + number of defenses significantly better.
        rank_high: worst place it can hold, K - number of defenses significantly worse.
        defense: its name as spelled on the command line with sorted keys, e.g. "lcnn:lambda_beta=0.01".
        anchor: a safe identifier for files, links and permalinks.
        seeds: training seeds behind the numbers.
        n: distinct images of the ranking column.
        cells: board column to number; a column is absent only if its evaluation was not run.
        trust: "A", "B", "C", "INVALID", or "" where trust was not assessed.
        trust_failed: names of the checks that failed.
        bound_violations: None where no bound applies.
        train_seconds: mean over seeds of the training time.
        train_cost: ratio of train_seconds to Standard's in the same run; None without Standard.
        eval_seconds: mean over seeds of the time of all its evaluations.
        eval_forwards: mean over seeds of images passed forward in all its evaluations.
        eval_backwards: likewise backward.
        facts: the plan's entries of the row, seed by seed (description, source, hyper-parameters, recipe, cells …).
        failures: evaluations or trainings that failed, each with its cause.
        missing: what has not been run to its end yet, each with how far it came.
        unranked: why the row has no rank, "" if it has one.
        variance: of the ranking column's number, by source, kept apart: "images", "training" seeds, "attack" seeds;
            None where there is only one. Empty for a row that is not ranked.
    """

    rank: int | None
    rank_low: int | None
    rank_high: int | None
    defense: str
    anchor: str
    seeds: tuple[int, ...]
    n: int
    cells: dict[str, Cell]
    trust: str = ""
    trust_failed: tuple[str, ...] = ()
    bound_violations: int | None = None
    train_seconds: float | None = None
    train_cost: float | None = None
    eval_seconds: float | None = None
    eval_forwards: int | None = None
    eval_backwards: int | None = None
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unranked: str = ""
    variance: dict[str, float | None] = field(default_factory=dict)

    def own(self, name: str) -> Any:
        """Return the row's entry of one of the board's own columns (see `OWN`); None where it has none."""
        return {"seeds": len(self.seeds), "trust_failed": ";".join(self.trust_failed)}.get(name, getattr(self, name))


@dataclass(frozen=True)
class BoardColumn:
    """One column of the board: its name, its words, and where it comes from.

    Attributes:
        name: as in leaderboard.csv, e.g. "pgd_l2_0.1".
        facts: the evaluation's own description of the per-example column behind it.
        evaluation: key of the evaluation in the plan; "" for the board's own columns (rank, cost …).
        example_column: name of the per-example column behind it; "" for the board's own.
        number: the number in its name (eps or radius), if it has one.
    """

    name: str
    facts: Column
    evaluation: str = ""
    example_column: str = ""
    number: float | None = None


def _own(
    name: str, description: str, unit: str = "", direction: Any = "none", formula: str = "", source: str = ""
) -> BoardColumn:
    return BoardColumn(name, Column(description, unit, direction=direction, formula=formula, source=source))


_TIES = "McNemar 1947 (exact; sign flips with several seeds), Holm 1979"
_CLOCK = "the run's own clock"
_COUNTER = "the run's own counter, by hooks on the model"


# The board's own columns. The measured ones stand between the first six and the rest.
OWN: tuple[BoardColumn, ...] = (
    _own("rank", "Place by the ranking column; equal values share a place.", "place", "lower",
         "1 + number strictly better"),
    _own("rank_low", "Best place it can hold.", "place", "lower",
         "1 + number significantly better (Holm over all pairs, 5 %)", _TIES),
    _own("rank_high", "Worst place it can hold.", "place", "lower",
         "K − number significantly worse (Holm over all pairs, 5 %)", _TIES),
    _own("defense", "Name of the defense, with the hyper-parameters that differ from its defaults."),
    _own("seeds", "Number of trained models (training seeds) behind the numbers; values are means over them.",
         "models"),
    _own("n", "Distinct test images of the ranking column.", "images"),
    _own("trust", "Grade of the checks: A, B, C (upper bound only) or INVALID (not ranked).", "grade",
         formula="the worst grade over the seeds"),
    _own("trust_failed", "Checks that failed, separated by semicolons.", "names"),
    _own("train_seconds", "Training time of one model.", "s", "lower", "mean over seeds", _CLOCK),
    _own("train_cost", "Training time relative to Standard's in the same run.", "ratio", "lower",
         "train_seconds / train_seconds of Standard", _CLOCK),
    _own("eval_seconds", "Time of all evaluations of one model.", "s", "none",
         "sum over evaluations, mean over seeds", _CLOCK),
    _own("eval_forwards", "Images passed forward in all evaluations of one model.", "images", "none",
         "sum over evaluations, mean over seeds", _COUNTER),
    _own("eval_backwards", "Images passed backward in all evaluations of one model.", "images", "none",
         "sum over evaluations, mean over seeds", _COUNTER),
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two ranked defenses on the same images by the ranking column; `a` stands above `b`.

    Attributes:
        a: defense above.
        b: defense below.
        difference: value of a minus value of b.
        low: lower end of the 95 % interval of the difference (bootstrap over images).
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
class Board:
    """Everything the page shows.

    Attributes:
        plan: the last command's plan as stored: suite, data, environment, command, evaluations, rows.
        rows: ranked rows first (by rank), then the unranked.
        columns: the board's columns in the order of leaderboard.csv, its own (`OWN`) among the measured ones.
        examples: the joined per-example table (defense, seed, index, label + columns).
        ranking: name of the column that ranks; "" if none was run.
        resolvable: smallest gap of the ranking column that its n can resolve, as a fraction.
        logs: (defense, seed) to the training log, one record per epoch.
        train_examples: likewise for evaluations on training images (columns begin with train_); never joined.
        pairs: all pairs of ranked rows, in the order of their ranks.
        pictures: (defense, seed) to some of the broken images of the ranking evaluation, nearest first: index and
            prediction (m,), clean and adversarial (m, C, H, W), distance (m,) in l2.
        claims: the paper's numbers and claims beside ours; None where the paper says nothing about these data.
    """

    plan: PlanRecord
    rows: tuple[Row, ...]
    columns: tuple[BoardColumn, ...]
    examples: pd.DataFrame
    ranking: str
    resolvable: float | None
    logs: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    train_examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: tuple[Pair, ...] = ()
    pictures: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    claims: Claims | None = None
