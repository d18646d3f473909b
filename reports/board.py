"""The board as data: what the tables compute and what page, figures and exports show. One source for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.records import Column


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


@dataclass(frozen=True)
class Board:
    """Everything the page shows.

    Attributes:
        plan: the last command's plan as stored: suite, data, environment, command, evaluations, rows.
        rows: ranked rows first (by rank), then the unranked.
        columns: the board's columns in order.
        examples: the joined per-example table (defense, seed, index, label + columns).
        ranking: name of the column that ranks; "" if none was run.
        resolvable: smallest gap of the ranking column that its n can resolve, as a fraction.
        logs: (defense, seed) to the training log, one record per epoch.
    """

    plan: dict[str, Any]
    rows: tuple[Row, ...]
    columns: tuple[BoardColumn, ...]
    examples: pd.DataFrame
    ranking: str
    resolvable: float | None
    logs: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
