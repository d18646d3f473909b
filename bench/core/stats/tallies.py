"""Paired differences of integers as a tally: all that the exact tests and intervals of `paired` need of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm

import numpy as np


@dataclass(frozen=True)
class Tally:
    """How often each difference occurs.

    Attributes:
        values: the distinct differences, ascending, integers (m,).
        counts: how often each occurs, ≥ 1, (m,).
    """

    values: np.ndarray
    counts: np.ndarray

    @cached_property
    def n(self) -> int:
        """How many differences there are."""
        return int(self.counts.sum())

    @cached_property
    def total(self) -> int:
        """Their sum."""
        return int(self.values @ self.counts)

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.n

    @property
    def variance(self) -> float:
        """Their variance, divided by n."""
        return float(np.square(self.values - self.mean) @ self.counts) / self.n

    @property
    def squares(self) -> float:
        """The mean of their squares."""
        return int(np.square(self.values) @ self.counts) / self.n

    @property
    def positive(self) -> int:
        """How many are above 0."""
        return int(self.counts[self.values > 0].sum())

    @property
    def negative(self) -> int:
        """How many are below 0."""
        return int(self.counts[self.values < 0].sum())

    def sizes(self) -> Tally:
        """Return the tally of the sizes |d| of the differences other than 0."""
        apart = self.values != 0
        return _counted(np.abs(self.values[apart]), self.counts[apart])


def tally(differences: np.ndarray) -> Tally:
    """Return the tally of differences.

    Args:
        differences: small integers, shape (n,).
    """
    return _counted(differences, np.ones(len(differences), dtype=np.int64))


def _counted(values: np.ndarray, counts: np.ndarray) -> Tally:
    """Return the tally of values of which each occurs so often; they may repeat."""
    if not len(values):
        return Tally(values, counts)
    low = int(values.min())
    sums = np.bincount(values - low, counts).astype(np.int64)  # exact: far below 2⁵³
    found = np.flatnonzero(sums)
    return Tally(found + low, sums[found])


def pair_tallies(outcomes: Sequence[np.ndarray]) -> Iterator[tuple[tuple[int, int], Tally, int]]:
    """Yield (i, j), tally, unit for every pair of defenses, i < j: tally / unit is of their mean outcomes' differences.

    How often i has a and j has b right seeds on the same image is one product of matrices for all pairs, so that the
    images are read once per defense and not once per pair.

    Args:
        outcomes: per defense its flags on the same images, shape (S_k, n).
    """
    right = [np.asarray(flags).sum(0, dtype=np.int64) for flags in outcomes]
    seeds = [len(flags) for flags in outcomes]
    # float32 counts exactly up to 2²⁴ images.
    exact = np.float32 if all(len(r) < 2**24 for r in right) else np.float64
    one_hot = [(np.arange(s + 1)[:, None] == r).astype(exact) for s, r in zip(seeds, right, strict=True)]
    for i in range(len(outcomes) - 1):
        together = one_hot[i] @ np.concatenate(one_hot[i + 1 :]).T  # (S_i + 1, all later defenses' S + 1)
        start = 0
        for j in range(i + 1, len(outcomes)):
            counts = together[:, start : start + seeds[j] + 1]
            start += seeds[j] + 1
            unit = lcm(seeds[i], seeds[j])
            a, b = np.arange(seeds[i] + 1) * (unit // seeds[i]), np.arange(seeds[j] + 1) * (unit // seeds[j])
            yield (i, j), _counted((a[:, None] - b).ravel(), counts.ravel().astype(np.int64)), unit
