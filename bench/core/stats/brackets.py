"""Ranks where an image may be proved robust, broken, or neither: what holds however the unknown ones turn out.

A row's outcome on an image is a bracket [L, U]: L = 1 where robustness is proved, U = 0 where the image is broken or
misclassified. Row a is better than row b if the one-sided exact McNemar test rejects for every resolution of the
unknowns; its p-value is largest at (L_a, U_b), because lowering n10 by one or raising n01 by one can only raise
P(Bin(n10 + n01, ½) ≥ n10). So one test per ordered pair suffices.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from bench.core.stats.intervals import ALPHA
from bench.core.stats.paired import holm, survival


class State(IntEnum):
    """What is known of one image of one row."""

    BROKEN = 0  # or misclassified without an attack
    UNKNOWN = 1
    PROVED = 2


@dataclass(frozen=True, slots=True)
class BracketRanks:
    """Rank intervals of K rows that hold whatever the unknown images are.

    Attributes:
        low: best possible rank, 1 + number of rows that are better, shape (K,).
        high: worst possible rank, K − number of rows that it is better than, shape (K,).
        p: Holm-adjusted one-sided p of "row i is better than row j", shape (K, K); 1 on the diagonal.
    """

    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def better_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the one-sided exact McNemar p of "a is better than b" at the worst resolution of the unknowns.

    P(Bin(n10 + n01, ½) ≥ n10) with n10 = #{a proved, b broken}, n01 = #{a not proved, b not broken}.

    Args:
        a: states of the first row, shape (n,), values of `State`.
        b: states of the second row on the same images, shape (n,).
    """
    proved, unbroken = a == State.PROVED, b != State.BROKEN
    n10, n01 = int((proved & ~unbroken).sum()), int((~proved & unbroken).sum())
    return float(survival(n10 + n01)[n10])


def bracket_ranks(states: np.ndarray, alpha: float = ALPHA) -> BracketRanks:
    """Return rank intervals: Holm's correction over the K(K − 1) ordered one-sided tests.

    With probability ≥ 1 − alpha all true ranks in the population lie inside together. A row without certificates has no
    proved image, is better than none, and has K as its worst rank.

    Args:
        states: shape (K, n), values of `State`, all rows on the same images; an image on which no certificate was
            computed is unknown, never left out.
        alpha: family-wise error of any false claim.
    """
    size = len(states)
    p = np.ones((size, size))
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    for (i, j), value in zip(pairs, holm([better_p(states[i], states[j]) for i, j in pairs]), strict=True):
        p[i, j] = value
    better = p <= alpha
    np.fill_diagonal(better, False)
    return BracketRanks(1 + better.sum(0), size - better.sum(1), p)


def surely_better_here(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether a has more robust images than b among exactly these, however the unknowns turn out.

    Args:
        a: states of the first row, shape (n,).
        b: states of the second row, shape (n,).
    """
    return bool((a == State.PROVED).sum() > (b != State.BROKEN).sum())
