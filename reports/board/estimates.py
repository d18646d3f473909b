"""What a board measured, model by model: means, paired differences, test against training images, training time."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.core.stats.intervals import fraction_interval
from bench.core.stats.paired import bootstrap_difference, bootstrap_mean
from bench.reports.board.model import Board
from bench.reports.board.run_tables import TRAIN
from bench.reports.board.training_cost import RelativeTime, relative_time

Estimate = tuple[float, float, float]  # value and the ends of its 95 % interval over images


class Estimates:
    """The per-example columns of a board by defense and seed, and the time of their training."""

    def __init__(self, board: Board) -> None:
        self._facts = board.facts
        self._tables = {"test": _split(board.examples), "train": _split(board.train_examples)}
        self._trainings = {row.defense: row.trainings for row in board.rows}

    def columns(self, pattern: str) -> list[str]:
        """Return the names of the per-example columns on test images that a pattern gives.

        Args:
            pattern: as its evaluation declares it, e.g. "stability_{radius}".
        """
        names = next((list(table.columns) for table in self._tables["test"].values()), [])
        return [name for name in names if name in self._facts and self._facts[name].pattern == pattern]

    def seeds(self, *defenses: str) -> list[int]:
        """Return the seeds that all these defenses have been evaluated with."""
        found = [{seed for name, seed in self._tables["test"] if name == defense} for defense in defenses]
        return sorted(set.intersection(*found))

    def values(self, defense: str, seed: int, column: str, split: str = "test") -> pd.Series:
        """Return a column of one model by image, missing values left out; empty if it was not measured."""
        table = self._tables[split].get((defense, seed))
        name = TRAIN + column if split == "train" else column
        if table is None or name not in table:
            return pd.Series(dtype="float64")
        return table[name].astype("float64").dropna()

    def mean(self, defense: str, column: str) -> tuple[dict[int, float], tuple[float, float] | None]:
        """Return the per-seed means of a column, and the interval over images of their mean."""
        series = {s: v for s in self.seeds(defense) if len(v := self.values(defense, s, column))}
        if not series:
            return {}, None
        by_seed = {seed: float(values.mean()) for seed, values in series.items()}
        per_image = pd.concat(series.values(), axis=1).mean(axis=1).to_numpy()
        if self._is_flag(column):
            return by_seed, fraction_interval(float(np.mean(list(by_seed.values()))), len(per_image))
        return by_seed, bootstrap_mean(per_image)

    def difference(self, left: str, right: str, seed: int, column: str) -> Estimate | None:
        """Return the mean of left − right of one seed on the images that both have; None if there are none."""
        a, b = self.values(left, seed, column), self.values(right, seed, column)
        both = a.index.intersection(b.index)
        if not len(both):
            return None
        d = (a.loc[both] - b.loc[both]).to_numpy()
        low, high = bootstrap_difference(d.astype("int64")) if self._is_flag(column) else bootstrap_mean(d)
        return float(d.mean()), low, high

    def discrepancy(self, defense: str, seed: int, column: str) -> Estimate | None:
        """Return (test − train)/train of a column's means; None where one of them was not measured.

        The interval is that of a ratio of two independent means, by the delta method on its logarithm.
        """
        test = self.values(defense, seed, column).to_numpy()
        train = self.values(defense, seed, column, "train").to_numpy()
        if len(test) < 2 or len(train) < 2 or test.mean() <= 0 or train.mean() <= 0:
            return None
        ratio = float(test.mean() / train.mean())
        half = 1.96 * float(np.sqrt(sum(v.var(ddof=1) / len(v) / v.mean() ** 2 for v in (test, train))))
        return ratio - 1, ratio * float(np.exp(-half)) - 1, ratio * float(np.exp(half)) - 1

    def cost(self, left: str, right: str) -> RelativeTime:
        """Return the training time of left over that of right, seed by seed."""
        return relative_time(self._trainings.get(left, {}), self._trainings.get(right, {}), right)

    def _is_flag(self, column: str) -> bool:
        return column in self._facts and self._facts[column].kind == "flag"


def _split(examples: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    if not len(examples):
        return {}
    groups = examples.groupby(["defense", "seed"], sort=False)
    return {(str(name), int(seed)): table.set_index("index") for (name, seed), table in groups}
