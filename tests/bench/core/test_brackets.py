"""Ranks on brackets: test values, enumeration of every resolution, and simulated boards."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtri

from bench.core.stats.brackets import State, better_p, bracket_ranks, surely_better_here


def exact_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the one-sided exact McNemar p of two rows without unknowns, bool (n,)."""
    k, m = int((a & ~b).sum()), int((a ^ b).sum())
    return sum(math.comb(m, j) for j in range(k, m + 1)) / 2**m


def test_the_worst_resolution_is_known_without_enumeration():
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 3, (150, 2, 5)):
        worst = max(
            exact_p(np.where(a == 1, r[:5], a == 2) > 0, np.where(b == 1, r[5:], b == 2) > 0)
            for r in itertools.product((0, 1), repeat=10)
        )
        assert better_p(a, b) == pytest.approx(worst, abs=1e-12)


def row(n: int, proved: range, unknown: range) -> np.ndarray:
    states = np.full(n, State.BROKEN)
    states[list(proved)], states[list(unknown)] = State.PROVED, State.UNKNOWN
    return states


def test_values():
    a, b = row(100, range(40), range(40, 45)), row(100, range(20), range(20, 25))
    assert better_p(a, b) == pytest.approx(2**-15)
    found = bracket_ranks(np.stack([a, b]))
    assert (found.low.tolist(), found.high.tolist()) == ([1, 2], [1, 2])
    assert surely_better_here(a, b)
    b = row(100, range(20), range(20, 36))
    assert better_p(a, b) == pytest.approx(0.0625)
    found = bracket_ranks(np.stack([a, b]))
    assert (found.low.tolist(), found.high.tolist()) == ([1, 1], [2, 2])
    assert surely_better_here(a, b), "40 proved against 36 not broken: certain on these images, not in the population"
    assert not surely_better_here(b, a)


def test_a_row_without_certificates_is_better_than_none():
    attacked = row(200, range(0), range(190))
    weak = row(200, range(5), range(0))
    found = bracket_ranks(np.stack([attacked, weak]))
    assert found.high[0] == 2
    assert found.low[1] == 1


def test_without_unknowns_it_is_holm_over_ordered_pairs():
    rng = np.random.default_rng(3)
    states = np.where(rng.random((4, 60)) < np.array([[0.9], [0.7], [0.5], [0.45]]), State.PROVED, State.BROKEN)
    flags = states == State.PROVED
    p = sorted((exact_p(flags[i], flags[j]), i, j) for i in range(4) for j in range(4) if i != j)
    rejected = list(itertools.takewhile(lambda k: p[k][0] <= 0.05 / (12 - k), range(12)))
    wins = {(p[k][1], p[k][2]) for k in rejected}
    found = bracket_ranks(states)
    assert wins, "the example has something to find"
    assert [1 + sum((j, i) in wins for j in range(4)) for i in range(4)] == found.low.tolist()
    assert [4 - sum((i, j) in wins for j in range(4)) for i in range(4)] == found.high.tolist()


@pytest.mark.parametrize("unknown", [0.0, 0.05])
def test_equal_rows_are_told_apart_on_at_most_one_board_in_twenty(unknown):
    rng, false = np.random.default_rng(4), 0
    for _ in range(300):
        shared = rng.random(200)
        robust = (0.5 * shared + 0.5 * rng.random((5, 200))) < 0.5
        states = np.where(robust, State.PROVED, State.BROKEN)
        states[rng.random((5, 200)) < unknown] = State.UNKNOWN
        found = bracket_ranks(states)
        false += bool((found.low > 1).any() or (found.high < 5).any())
    assert false / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_true_ranks_lie_inside_together():
    rng, covered = np.random.default_rng(5), 0
    cut = ndtri(np.array([0.70, 0.66, 0.62, 0.58, 0.54]))[:, None]
    for _ in range(100):
        robust = 0.8 * rng.standard_normal(500) + 0.6 * rng.standard_normal((5, 500)) < cut
        found = bracket_ranks(np.where(robust, State.PROVED, State.BROKEN))
        covered += bool(((found.low <= np.arange(1, 6)) & (np.arange(1, 6) <= found.high)).all())
    assert (found.high - found.low < 4).any(), "some rows are told apart"
    assert covered >= 95 - 3 * math.sqrt(100 * 0.05 * 0.95)


def test_one_row_alone():
    found = bracket_ranks(row(10, range(5), range(0))[None])
    assert (found.low.tolist(), found.high.tolist()) == ([1], [1])
