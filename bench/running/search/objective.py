"""What a search looks for: a column of the board, and what others must at least be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.config.suite import Suite
from bench.core import registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Column, expand_columns


@dataclass(frozen=True)
class Objective:
    """What a search looks for.

    Attributes:
        by: the board's column that is to be best.
        higher: whether larger is better.
        floors: column to the least value that an eligible trial has.
        evaluations: keys of the suite's evaluations that give these columns.
    """

    by: str
    higher: bool
    floors: Mapping[str, float]
    evaluations: tuple[str, ...]


def columns_of(suite: Suite) -> dict[str, tuple[str, Column]]:
    """Return the board's columns that a suite measures on test images: name to evaluation and column."""
    found: dict[str, tuple[str, Column]] = {}
    for entry in suite.evaluations:
        if entry.split == "test":
            evaluation = registry.evaluations.get(entry.evaluation)
            arguments = {**evaluation.hyperparameters, **entry.arguments}
            for column in expand_columns(evaluation.columns, arguments).values():
                if column.board:
                    found.setdefault(column.board, (entry.key, column))
    return found


def objective(suite: Suite, by: str | None, floors: Mapping[str, float]) -> Objective:
    """Return what a search on a suite looks for.

    Args:
        suite: what could be measured.
        by: column of the board; None: robust accuracy at the suite's threat by the cheapest attack that it has, or
            clean accuracy.
        floors: column to its least value.

    Raises:
        UsageError: a column that the suite does not measure, or one of which neither side is better.
    """
    known = columns_of(suite)
    by = by or _default(suite, known)
    for option, name in (("--by", by), *(("--at-least", name) for name in floors)):
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"{option}: expected a column that suite {suite.name} measures, got {name!r}. {hint}")
    direction = known[by][1].direction
    if direction == "none":
        raise UsageError(f"--by: expected a column that a defense can be better in, got {by!r}. Choose another one.")
    evaluations = tuple(dict.fromkeys(known[name][0] for name in (by, *floors)))
    clean = tuple(entry for entry, column in known.values() if column.role == "clean")
    return Objective(by, direction == "higher", dict(floors), tuple(dict.fromkeys((*clean, *evaluations))))


def _default(suite: Suite, known: Mapping[str, tuple[str, Column]]) -> str:
    """Return the column of the weakest attack that can rank the suite's board, else that of clean accuracy."""
    ranking = {name: c for name, (_, c) in known.items() if c.ranks and c.level and c.level[1] == suite.primary_eps}
    clean = [name for name, (_, column) in known.items() if column.role == "clean"]
    names = sorted(ranking, key=lambda name: ranking[name].ranks) or clean
    if not names:
        raise UsageError(
            f"suite {suite.name}: expected an evaluation of accuracy, got none. Say what counts: --by COLUMN."
        )
    return names[0]
