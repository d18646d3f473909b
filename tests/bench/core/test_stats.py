"""Statistics against other implementations, closed forms, enumeration and simulation."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from bench.core.stats import intervals, paired, ranks, seeds


@settings(deadline=None)
@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.01, 0.05, 0.3]))
def test_wilson_agrees_with_the_reference(n: int, share: float, alpha: float) -> None:
    k = round(share * n)
    expected = np.clip(proportion_confint(k, n, alpha, method="wilson"), 0, 1)
    assert intervals.wilson(k, n, alpha) == pytest.approx(tuple(expected), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 20_000), st.floats(0, 1), st.sampled_from([0.01, 0.05, 0.3]))
def test_clopper_pearson_agrees_with_the_reference(n: int, share: float, alpha: float) -> None:
    k = round(share * n)
    expected = binomtest(k, n).proportion_ci(1 - alpha, method="exact")
    assert intervals.clopper_pearson(k, n, alpha) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_clopper_pearson_agrees_with_statsmodels_to_twelve_digits() -> None:
    for k, n in [(0, 64), (1, 64), (32, 64), (64, 64), (5, 1000), (993, 1000), (5000, 10_000)]:
        assert intervals.clopper_pearson(k, n) == pytest.approx(proportion_confint(k, n, method="beta"), abs=1e-12)


def test_fraction_interval_is_exact_at_the_ends_and_wilson_between() -> None:
    assert intervals.fraction_interval(0.0, 64) == intervals.clopper_pearson(0, 64)
    assert intervals.fraction_interval(1.0, 64) == intervals.clopper_pearson(64, 64)
    assert intervals.fraction_interval(0.5, 64) == intervals.wilson(32, 64)
    # Rounded to no success at all: 0.004 · 64 is a quarter of an image.
    assert intervals.fraction_interval(0.004, 64) == intervals.clopper_pearson(0, 64)
    assert intervals.clopper_pearson(0, 64)[1] == pytest.approx(1 - 0.025 ** (1 / 64), abs=1e-14)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 9), (0, 6), (50, 80), (5, 5), (400, 480), (1000, 1100)])
def test_mcnemar_agrees_with_the_reference(b: int, c: int) -> None:
    expected = reference_mcnemar([[10, b], [c, 10]], exact=True).pvalue if b + c else 1.0
    assert paired.mcnemar(b, c) == pytest.approx(expected, abs=1e-12)
    ones = np.concatenate([np.ones(b, int), -np.ones(c, int), np.zeros(7, int)])
    assert paired.sign_flip(ones) == pytest.approx(expected, abs=1e-12)
    assert paired.sign_flip(3 * ones) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_sign_flip_is_what_enumeration_of_all_signs_gives(values: list[int]) -> None:
    d = np.array(values)
    sums = [abs(sum(s * abs(v) for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(values))]  # fmt: skip
    assert paired.sign_flip(d) == pytest.approx(np.mean(np.array(sums) >= abs(d.sum())), abs=1e-12)


def test_sign_flip_by_fft_agrees_with_the_direct_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(0).integers(-5, 6, 3000) + (np.arange(3000) % 25 == 0)
    by_fft = paired.sign_flip(d)
    monkeypatch.setattr(paired, "_convolve", np.convolve)
    assert by_fft == pytest.approx(paired.sign_flip(d), abs=1e-12)


@pytest.mark.parametrize("m", [1, 2, 7, 190])
def test_holm_agrees_with_the_reference(m: int) -> None:
    p = np.random.default_rng(m).random(m) ** 3
    p[: m // 3] = p[-1]  # ties
    assert paired.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


def test_wilson_covers() -> None:
    rng = np.random.default_rng(0)
    for n, p in [(64, 0.3), (64, 0.95), (1000, 0.6)]:
        found = [intervals.fraction_interval(k / n, n) for k in rng.binomial(n, p, 2000)]
        covered = np.mean([low <= p <= high for low, high in found])
        assert 0.93 <= covered <= 0.98


def test_bootstrap_of_the_difference_covers() -> None:
    rng = np.random.default_rng(1)
    chances, truth = [0.12, 0.7, 0.18], -0.06
    covered = []
    for _ in range(400):
        d = np.repeat([1, 0, -1], rng.multinomial(300, chances))
        low, high = paired.bootstrap_difference(d)
        covered.append(low <= truth <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("counts", [[30, 60, 200, 40], [1, 0, 99, 0], [500, 2000, 6000, 1500]])
def test_bootstrap_of_the_difference_is_the_limit_of_many_draws(counts: list[int]) -> None:
    d = np.repeat([2, 1, 0, -1], counts)
    draws = np.random.default_rng(2).multinomial(len(d), np.array(counts) / len(d), 200_000) @ [2, 1, 0, -1]
    expected = np.quantile(draws / (2 * len(d)), [0.025, 0.975])
    assert paired.bootstrap_difference(d, unit=2) == pytest.approx(expected, abs=1.01 / (2 * len(d)))


def test_bootstrap_of_the_difference_on_few_images_is_what_enumeration_gives() -> None:
    d = np.array([1, 1, 0, -1, 0])
    sums = np.sort([sum(draw) for draw in itertools.product(d, repeat=5)])
    low, high = sums[int(np.ceil(0.025 * len(sums))) - 1], sums[int(np.ceil(0.975 * len(sums))) - 1]
    assert paired.bootstrap_difference(d) == (low / 5, high / 5)


def test_bootstrap_without_any_discordant_image_still_has_a_width() -> None:
    low, high = paired.bootstrap_difference(np.zeros(100, dtype=int))
    assert (low, high) == pytest.approx((-intervals.clopper_pearson(0, 100)[1], intervals.clopper_pearson(0, 100)[1]))


def test_sign_flip_of_two_seeds_keeps_its_level() -> None:
    """Two defenses with the same distribution: at most 5 % are called different (± 3 standard errors)."""
    rng, rejected = np.random.default_rng(3), []
    for _ in range(600):
        hardness = rng.random(150)
        a, b = rng.random((2, 150)) > hardness, rng.random((2, 150)) > hardness
        rejected.append(paired.compare_flags(a, b).p < 0.05)
    assert np.mean(rejected) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_comparison_with_several_seeds_counts_per_image_means() -> None:
    a = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], dtype=bool)
    b = np.array([[1, 0, 0, 0]], dtype=bool)
    counts = paired.compare_flags(a, b)
    assert counts.difference == pytest.approx((0 + 0.5 + 0 + 1) / 4)
    assert (counts.only_a, counts.only_b, counts.n) == (2, 0, 4)
    assert counts.discordance == pytest.approx((0.25 + 1) / 4)
    assert paired.compare_flags(b, a).difference == -counts.difference
    assert paired.compare_flags(b, a).p == counts.p


def test_twenty_identical_models_are_all_tied() -> None:
    flags = np.random.default_rng(0).random((2, 500)) < 0.6
    found = ranks.ranks([flags.copy() for _ in range(20)])
    assert set(found.place) == {1}
    assert set(found.low) == {1}
    assert set(found.high) == {20}


def test_equal_models_are_seldom_told_apart() -> None:
    rng, separated = np.random.default_rng(5), 0
    for _ in range(40):
        hardness = rng.random(200)
        found = ranks.ranks([rng.random((1, 200)) > hardness for _ in range(8)])
        separated += bool((found.p < 0.05).any())
    assert separated <= 6  # 5 % of 40 is 2; more than 6 has probability 0.3 %


def test_ranks_are_intervals_around_the_place() -> None:
    rng = np.random.default_rng(6)
    hardness = rng.random(400)
    outcomes = [np.array([hardness < level]) for level in (0.9, 0.88, 0.88, 0.3)]
    found = ranks.ranks(outcomes)
    assert list(found.place) == [1, 2, 2, 4]
    assert (found.low <= found.place).all()
    assert (found.place <= found.high).all()
    assert (found.low[3], found.high[3]) == (4, 4)
    assert found.high[0] <= 3


def test_ranks_of_one_and_of_none() -> None:
    one = ranks.ranks([np.ones((1, 10), dtype=bool)])
    assert (one.place[0], one.low[0], one.high[0]) == (1, 1, 1)
    assert len(ranks.ranks([]).place) == 0


@pytest.mark.parametrize(("n", "low", "high"), [(1000, 0.02, 0.043), (10_000, 0.006, 0.0127)])
def test_smallest_resolvable_gap_is_the_first_significant_one(n: int, low: float, high: float) -> None:
    for discordance in (0.1, 0.25, 0.4):
        gap = ranks.smallest_resolvable_gap(n, discordance)
        assert low <= gap <= high
        m, k = round(n * discordance), round(gap * n)
        assert paired.mcnemar((m + k) // 2, (m - k) // 2) < 0.05 <= paired.mcnemar((m + k) // 2 - 1, (m - k) // 2 + 1)


def test_smallest_resolvable_gap_of_identical_models_and_of_too_few_images() -> None:
    assert ranks.smallest_resolvable_gap(1000, 0.0) == 6 / 1000
    assert ranks.smallest_resolvable_gap(5, 0.5) == 1.0


def test_smallest_resolvable_gap_holds_after_correction_for_all_pairs() -> None:
    gaps = [ranks.smallest_resolvable_gap(1000, 0.25, pairs) for pairs in (1, 28, 190)]
    assert gaps == sorted(set(gaps))
    for gap, pairs in zip(gaps, (1, 28, 190), strict=True):
        k = round(gap * 1000)
        won = [(250 + k) // 2 - step for step in (0, 1)]
        adjusted = [paired.holm([paired.mcnemar(a, 250 - a), *[1.0] * (pairs - 1)])[0] for a in won]
        assert adjusted[0] < 0.05 <= adjusted[1]


def test_an_interval_holds_zero_if_and_only_if_the_adjusted_p_does_not_reject() -> None:
    """Flags and other numbers, few and many comparisons, one seed and two: interval and p agree everywhere."""
    rng, seen = np.random.default_rng(8), set()
    for _ in range(30):
        hardness, size = rng.random(60), int(rng.integers(2, 7))
        outcomes = [rng.random((int(rng.integers(1, 3)), 60)) > hardness * rng.uniform(0.4, 1.3) for _ in range(size)]
        found = ranks.ranks(outcomes)
        for (i, j), pair in found.pairs.items():
            rejected = found.p[i, j] < 0.05
            assert (pair.low > 0 or pair.high < 0) == rejected
            assert pair.low <= pair.difference <= pair.high
            seen.add((rejected, pair.p < 0.05))
    assert seen == {(True, True), (False, False), (False, True)}
    values = [rng.normal(shift, 1, 50) for shift in (0.0, 0.1, 0.4, 0.5, 2.0)]
    alone = [paired.compare_values(v, np.zeros(50), draws=2000) for v in values]
    adjusted, p = paired.simultaneous(alone, [partial(paired.bootstrap_mean, v) for v in values])
    assert [a.low > 0 for a in adjusted] == list(p < 0.05)


def test_levels_are_those_at_which_holm_tests() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        p = rng.random(int(rng.integers(1, 30))) ** 4
        assert list(p < paired.holm_levels(p)) == list(paired.holm(p) < 0.05)
    assert list(paired.holm_levels([0.001, 0.5])) == [0.025, 0.05]
    assert list(paired.holm_levels([0.0, 0.5, 0.0])) == pytest.approx([0.05 / 3, 0.05, 0.05 / 3])


@pytest.mark.parametrize(
    ("values", "spread", "about", "sd"),
    [
        ([0.5], "none", "this trained model", None),
        ([0.5, 0.6], "range", "these trained models", None),
        ([0.5, 0.6, 0.7], "sd", "these trained models", 0.1),
        ([0.5, 0.6, 0.7, 0.8, 0.9], "sd", "the method", np.sqrt(0.025)),
    ],
)
def test_rules_for_few_seeds(values: list[float], spread: str, about: str, sd: float | None) -> None:
    summary = seeds.describe_seeds(values)
    assert (summary.spread, summary.about) == (spread, about)
    assert summary.sd == (None if sd is None else pytest.approx(sd))
    assert (summary.low, summary.high, summary.mean) == (min(values), max(values), pytest.approx(np.mean(values)))


def test_variance_components_are_kept_apart() -> None:
    images, training, attack = np.array([0.0, 1, 2, 5]), np.array([0.0, 2, 4]), np.array([0.0, 1])
    outcomes = training[:, None, None] + attack[None, :, None] + images[None, None, :]
    parts = seeds.variance_components(outcomes)
    assert parts["images"] == pytest.approx(images.var(ddof=1) / 4)
    assert parts["training"] == pytest.approx(4.0)
    assert parts["attack"] == pytest.approx(0.5)
    alone = seeds.variance_components(outcomes[:1, :1])
    assert alone["training"] is None
    assert alone["attack"] is None


def test_comparison_of_values() -> None:
    rng = np.random.default_rng(0)
    a = rng.lognormal(size=400)
    same = paired.compare_values(a, a, draws=500)
    assert (same.difference, same.p) == (0.0, 1.0)
    lower = paired.compare_values(0.5 * a, a, draws=500)
    assert lower.high < 0
    assert lower.p == pytest.approx(1 / 501)
    assert lower.difference == pytest.approx(-0.5 * a.mean())


def test_bootstrap_of_a_mean_covers() -> None:
    rng, covered = np.random.default_rng(7), []
    for _ in range(200):
        low, high = paired.bootstrap_mean(rng.normal(1.0, 2.0, 100), draws=500)
        covered.append(low <= 1.0 <= high)
    assert 0.90 <= np.mean(covered) <= 0.98
