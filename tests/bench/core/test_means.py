"""The interval of a mean: exact quantiles where the bootstrap's distribution is known, many draws where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from bench.core.stats.means import FEWEST, mean_interval


@pytest.mark.parametrize(("n", "k"), [(64, 20), (360, 100), (1000, 30), (10_000, 5)])
def test_of_zeros_and_ones_it_is_the_binomials_quantile(n: int, k: int) -> None:
    """Resampled zeros and ones sum up to a binomial variable, whose quantiles are exact."""
    values = np.zeros(n)
    values[:k] = 1.0
    low, high = mean_interval(values)
    exact = binom.ppf([0.025, 0.975], n, k / n) / n
    assert abs(low - exact[0]) <= 0.75 / n, "the binomial's own steps are 1 / n"
    assert abs(high - exact[1]) <= 0.75 / n


def test_of_symmetric_values_it_is_the_normal_interval() -> None:
    values = np.concatenate([norm.ppf((np.arange(5000) + 0.5) / 5000)])
    half = norm.ppf(0.975) * values.std() / np.sqrt(5000)
    assert mean_interval(7.0 + 3.0 * values) == pytest.approx((7.0 - 3 * half, 7.0 + 3 * half), rel=1e-6)


@pytest.mark.parametrize(("n", "sigma"), [(FEWEST, 0.5), (64, 1.0), (360, 1.5)])
def test_of_skewed_values_it_is_the_limit_of_many_draws(n: int, sigma: float) -> None:
    rng = np.random.default_rng(n)
    values = rng.lognormal(0.0, sigma, n)
    means = np.concatenate([values[rng.integers(0, n, (20_000, n))].mean(1) for _ in range(10)])
    drawn, found = np.quantile(means, [0.025, 0.975]), mean_interval(values)
    assert np.abs(drawn - found).max() < 0.02 * (drawn[1] - drawn[0])
    assert found[1] - values.mean() > values.mean() - found[0], "it is longer towards the long tail"


def test_it_moves_and_stretches_with_the_values() -> None:
    values = np.random.default_rng(1).lognormal(size=200)
    low, high = mean_interval(values)
    assert mean_interval(2.0 * values + 1.0) == pytest.approx((2 * low + 1, 2 * high + 1), rel=1e-12)
    assert mean_interval(-values) == pytest.approx((-high, -low), rel=1e-12)
    narrow = mean_interval(values, 0.5)
    assert low < narrow[0] < narrow[1] < high


@pytest.mark.parametrize("n", [1, 8, FEWEST, 500])
def test_equal_values_leave_nothing_open(n: int) -> None:
    assert mean_interval(np.full(n, 0.25)) == (0.25, 0.25)


def test_few_images_are_resampled() -> None:
    values = np.random.default_rng(2).lognormal(size=FEWEST - 1)
    low, high = mean_interval(values)
    assert values.min() < low < values.mean() < high < values.max()


def test_it_covers() -> None:
    rng = np.random.default_rng(7)
    found = [mean_interval(rng.lognormal(0.0, 0.8, 200)) for _ in range(1000)]
    covered = np.mean([low <= np.exp(0.32) <= high for low, high in found])
    assert 0.90 <= covered <= 0.97
