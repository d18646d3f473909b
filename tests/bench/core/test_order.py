"""Ranks, order statistics and tallies of pairs against the plain way to compute each."""

from __future__ import annotations

import gc
from math import lcm

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from bench.core.cycles import uncollected
from bench.core.stats import paired, tallies
from bench.core.stats.order import mean_ranks, nearest_quantiles

NUMBERS = st.lists(st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False)), min_size=1, max_size=40)


@settings(deadline=None)
@given(NUMBERS)
def test_ranks_are_scipys(values: list[float]) -> None:
    assert (mean_ranks(np.array(values)) == rankdata(values)).all()


def test_nothing_has_no_ranks() -> None:
    assert mean_ranks(np.empty(0)).shape == (0,)


@settings(deadline=None)
@given(NUMBERS, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_numpys_nearest(values: list[float], shares: list[float]) -> None:
    expected = np.quantile(values, shares, method="nearest")
    assert (nearest_quantiles(np.array(values), shares) == expected).all()


@pytest.mark.parametrize("seeds", [(1, 1, 1), (2, 3, 1, 2), (5, 4)])
def test_tallies_of_pairs_are_those_of_the_images(seeds: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    outcomes = [rng.random((s, 400)) < 0.2 + 0.2 * k for k, s in enumerate(seeds)]
    found = list(tallies.pair_tallies(outcomes))
    assert [key for key, _, _ in found] == [(i, j) for i in range(len(seeds)) for j in range(i + 1, len(seeds))]
    for (i, j), tally, unit in found:
        d, expected = paired.integer_differences(outcomes[i], outcomes[j])
        assert unit == expected == lcm(seeds[i], seeds[j])
        values, counts = np.unique(d, return_counts=True)
        assert (tally.values == values).all()
        assert (tally.counts == counts).all()
        assert (tally.n, tally.total, tally.positive) == (400, d.sum(), (d > 0).sum())
        assert tally.variance == pytest.approx(d.var())
        assert paired.compare_tally(tally, unit, paired.bootstrap_difference_of(tally, unit)) == paired.compare_flags(
            outcomes[i], outcomes[j]
        )


def test_the_collector_rests_and_goes_on_as_before() -> None:
    assert gc.isenabled()
    assert not uncollected()(gc.isenabled)()
    with pytest.raises(ValueError, match="invalid literal"):
        uncollected()(int)("x")
    assert gc.isenabled()
    with uncollected():
        kept: list[list[int]] = [[] for _ in range(1000)]
    assert any(kept is item for item in gc.get_objects(generation=2)), "what is left counts as old"
    gc.freeze()
    frozen = gc.get_freeze_count()
    with uncollected():
        pass
    assert gc.get_freeze_count() == frozen, "what others have frozen stays so"
    gc.unfreeze()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
