"""What a board measured, model by model: means, paired differences, test against training images, training time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bench.core.stats.intervals import ALPHA, fraction_interval
from bench.core.stats.means import mean_interval
from bench.core.stats.paired import bootstrap_difference, bootstrap_mean, bootstrap_ratio
from bench.reports.board.model import Board
from bench.reports.board.run_tables import TRAIN
from bench.reports.board.training_cost import RelativeTime, relative_time

DRAWS_BEYOND = 20  # draws of a bootstrap that lie beyond each end of its interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """One quantity of one model, or of a pair of models.

    Attributes:
        value: on the images at hand.
        low: lower end of its interval over images.
        high: upper end.
        n: images behind it; of test and training images, the fewer.
    """

    value: float
    low: float
    high: float
    n: int


class Estimates:
    """The per-example columns of a board by defense and seed, and the time of their training."""

    def __init__(self, board: Board) -> None:
        self._facts = board.facts
        self._planned: dict[str, set[int]] = {}
        for run in board.plan.rows:
            self._planned.setdefault(run.defense, set()).add(run.seed)
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

    def planned(self, *defenses: str) -> list[int]:
        """Return the seeds that the plan has for all these defenses."""
        return sorted(set.intersection(*(self._planned.get(defense, set()) for defense in defenses)))

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
        if self.is_flag(column):
            return by_seed, fraction_interval(float(np.mean(list(by_seed.values()))), len(per_image))
        return by_seed, mean_interval(per_image)

    def images(self, defense: str, column: str) -> int:
        """Return on how many images a column was measured, over all seeds."""
        series = [self.values(defense, seed, column) for seed in self.seeds(defense)]
        return len(pd.concat(series, axis=1)) if series else 0

    def difference(self, left: str, right: str, seed: int, column: str, alpha: float = ALPHA) -> Estimate | None:
        """Return the mean of left − right of one seed on the images that both have; None if there are none."""
        a, b = self._both(left, right, seed, column)
        if not len(a):
            return None
        d = a - b
        if self.is_flag(column):
            low, high = bootstrap_difference(d.astype("int64"), alpha=alpha)
        else:
            low, high = bootstrap_mean(d, alpha, _draws(alpha))
        return Estimate(float(d.mean()), low, high, len(d))

    def ratio(self, left: str, right: str, seed: int, column: str, alpha: float = ALPHA) -> Estimate | None:
        """Return the mean of left over the mean of right, of one seed on the images that both have.

        The interval is the percentile bootstrap over images, both means on the same draw. None without common images,
        or if a mean is not positive.
        """
        a, b = self._both(left, right, seed, column)
        if not len(a) or a.mean() <= 0 or b.mean() <= 0:
            return None
        low, high = bootstrap_ratio(a, b, alpha, _draws(alpha))
        return Estimate(float(a.mean() / b.mean()), low, high, len(a))

    def _both(self, left: str, right: str, seed: int, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a column of two models on the images that both have, shape (n,) each."""
        a, b = self.values(left, seed, column), self.values(right, seed, column)
        both = a.index.intersection(b.index)
        return a.loc[both].to_numpy(), b.loc[both].to_numpy()

    def discrepancy(self, defense: str, seed: int, column: str, alpha: float = ALPHA) -> Estimate | None:
        """Return (test − train)/train of a column's means; None where one of them was not measured.

        The interval is that of a ratio of two independent means, by the delta method on its logarithm.
        """
        test = self.values(defense, seed, column).to_numpy()
        train = self.values(defense, seed, column, "train").to_numpy()
        if len(test) < 2 or len(train) < 2 or test.mean() <= 0 or train.mean() <= 0:
            return None
        ratio = float(test.mean() / train.mean())
        error = float(np.sqrt(sum(v.var(ddof=1) / len(v) / v.mean() ** 2 for v in (test, train))))
        half = -float(ndtri(alpha / 2)) * error
        low, high = (ratio * float(np.exp(sign * half)) - 1 for sign in (-1, 1))
        return Estimate(ratio - 1, low, high, min(len(test), len(train)))

    def cost(self, left: str, right: str) -> RelativeTime:
        """Return the training time of left over that of right, seed by seed."""
        return relative_time(self._trainings.get(left, {}), self._trainings.get(right, {}), right)

    def is_flag(self, column: str) -> bool:
        """Tell whether a per-example column holds flags."""
        return column in self._facts and self._facts[column].kind == "flag"


def _draws(alpha: float) -> int:
    return max(2_000, math.ceil(2 * DRAWS_BEYOND / alpha))


def _split(examples: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    if not len(examples):
        return {}
    groups = examples.groupby(["defense", "seed"], sort=False)
    return {(str(name), int(seed)): table.set_index("index") for (name, seed), table in groups}
