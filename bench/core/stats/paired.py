"""Two defenses on the same images: exact McNemar, sign-flip test, paired bootstrap, Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import lcm

import numpy as np
from scipy.special import gammaln

from bench.core.stats.intervals import ALPHA, clopper_pearson
from bench.core.stats.tallies import Tally, tally

DRAWS = 10_000  # of a bootstrap or of random sign flips
DIGITS = 12  # of a p value: the last ones of a sum of products depend on where its arrays lie in memory


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p of McNemar's exact test: only_a ~ Binomial(only_a + only_b, ½) if there is no difference.

    Args:
        only_a: images on which only a is right, ≥ 0.
        only_b: images on which only b is right, ≥ 0.

    Returns:
        p in (0, 1].
    """
    return _binomial_tail(only_a + only_b, abs(only_a - only_b))


def _log_pmf(m: int) -> np.ndarray:
    """Return the log of the pmf of Binomial(m, ½) at 0..m, shape (m + 1,)."""
    known = _log_factorials(max(10, m.bit_length()))[: m + 1]
    found: np.ndarray = known[m] - known - known[::-1] - m * np.log(2.0)
    return found


@lru_cache(maxsize=4)
def _log_factorials(bits: int) -> np.ndarray:
    """Return log k! at k = 0..2^bits − 1."""
    found: np.ndarray = gammaln(np.arange(1, 2**bits + 1))
    return found


def survival(m: int) -> np.ndarray:
    """Return P(B ≥ k), B ~ Binomial(m, ½), at k = 0..m+1, shape (m + 2,); summed from the small end."""
    return np.append(np.minimum(np.cumsum(np.exp(_log_pmf(m))[::-1])[::-1], 1.0), 0.0)


def _binomial_tail(m: int, gap: int) -> float:
    """Return P(|2B − m| ≥ gap) for B ~ Binomial(m, ½)."""
    return 1.0 if gap == 0 else min(1.0, 2.0 * float(survival(m)[-(-(m + gap) // 2)]))


def sign_flip(differences: np.ndarray) -> float:
    """Return the exact two-sided p of the sign-flip test of integer differences, shape (n,).

    Under the hypothesis that swapping the two defenses on an image changes nothing, every non-zero difference has
    either sign with probability ½; p = P(|Σ ±|d_i|| ≥ |Σ d_i|). All |d_i| equal: McNemar's exact test. Also valid
    for large n if only the means are equal (Romano 1990). The distribution of the sum is a convolution of one
    binomial per size of difference, so nothing is drawn at random.

    Args:
        differences: d_i in any integer unit, e.g. (right seeds of a) − (right seeds of b), shape (n,).

    Returns:
        p in (0, 1], to DIGITS significant digits.
    """
    return sign_flip_of(tally(differences))


def sign_flip_of(differences: Tally) -> float:
    """Return the same p of a tally of differences.

    Args:
        differences: d_i in any integer unit.
    """
    total, found = abs(differences.total), differences.sizes()
    sizes, counts = found.values, found.counts
    if total == 0 or not len(sizes):
        return 1.0
    unit = int(np.gcd.reduce(sizes))
    sizes, total = sizes // unit, total // unit
    largest = int(np.argmax(counts))
    step, m = int(sizes[largest]), int(counts[largest])
    rest = np.ones(1)  # pmf of the other sizes' sum on the lattice −reach … reach
    for size, count in zip(np.delete(sizes, largest), np.delete(counts, largest), strict=True):
        spread = np.zeros(2 * int(size) * int(count) + 1)
        spread[:: 2 * int(size)] = np.exp(_log_pmf(int(count)))
        rest = _convolve(rest, spread)
    reach = len(rest) // 2
    # P(step·(2B − m) ≥ total − r): B ≥ ((total − r)/step + m)/2, rounded up.
    needed = -((-(total - np.arange(-reach, reach + 1) + step * m)) // (2 * step))
    p = float(min(1.0, 2.0 * rest @ survival(m)[np.clip(needed, 0, m + 1)]))
    return float(f"{p:.{DIGITS}g}")


def _convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Convolve two pmfs; by FFT (error 1e-16 absolute) where the direct sum would be slow."""
    if min(len(a), len(b)) <= 256:
        return np.convolve(a, b)
    size = len(a) + len(b) - 1
    fast = 1 << (size - 1).bit_length()
    return np.clip(np.fft.irfft(np.fft.rfft(a, fast) * np.fft.rfft(b, fast), fast)[:size], 0.0, None)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's (1979) adjusted p-values: p sorted ascending times (m, m−1, …, 1), made monotone, at most 1.

    Args:
        p: p-values in [0, 1], shape (m,).

    Returns:
        Adjusted p-values in the order of `p`, shape (m,). Rejecting those below α keeps the family-wise error at α.
    """
    return np.minimum(_step_down(np.asarray(p, dtype=float)), 1.0)


def holm_levels(p: Sequence[float] | np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Return the level at which Holm's procedure tests each of several p-values: p < level if and only if rejected.

    An interval of confidence 1 − level beside such a p-value is adjusted by the same step as the p-value is.

    Args:
        p: p-values in [0, 1], shape (m,); those of thousands of images can be too small for a float and so 0.
        alpha: family-wise error, in (0, 1).

    Returns:
        alpha·p / p_adjusted, p_adjusted not cut at 1; shape (m,), from alpha/m to alpha.
    """
    positive = np.maximum(np.asarray(p, dtype=float), np.finfo(float).tiny)
    return alpha * positive / _step_down(positive)


def _step_down(p: np.ndarray) -> np.ndarray:
    """Return the sorted p times (m, m−1, …, 1), made monotone and put back into their order, shape (m,)."""
    order = np.argsort(p, kind="stable")
    result = np.empty_like(p)
    result[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return result


@dataclass(frozen=True, slots=True)
class Paired:
    """Two defenses on the same images.

    Attributes:
        difference: mean outcome of a minus mean outcome of b.
        low: lower end of its 95 % interval over images, by bootstrap.
        high: upper end.
        p: exact two-sided p of "no difference".
        n: images that both have.
        only_a: images on which a is better (more of its seeds right).
        only_b: images on which b is better.
        discordance: mean of d²: the share of images that tells the two apart.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    only_a: int
    only_b: int
    discordance: float


def integer_differences(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, int]:
    """Return (d, unit): d / unit is the per-image difference of mean outcomes over seeds.

    Args:
        a: flags of the first defense, shape (S_a, n).
        b: flags of the second on the same images, shape (S_b, n).
    """
    unit = lcm(len(a), len(b))
    d = a.sum(0, dtype=np.int64) * (unit // len(a)) - b.sum(0, dtype=np.int64) * (unit // len(b))
    return d, unit


def simultaneous(
    found: Sequence[Paired], intervals: Sequence[Callable[[float], tuple[float, float]]], alpha: float = ALPHA
) -> tuple[list[Paired], np.ndarray]:
    """Adjust the p-values and the intervals of a family of comparisons by the same step of Holm's procedure.

    Each interval has the confidence 1 − the level at which its p-value is tested. It is a bootstrap, the test is
    exact: where they disagree about 0 the test decides, and the end that lies nearest to 0 is moved just past it.
    So an interval holds 0 if and only if the adjusted p is at least alpha.

    Args:
        found: the comparisons, each with its unadjusted p.
        intervals: for each, level in (0, 1) to the ends of its interval.
        alpha: family-wise error, in (0, 1).

    Returns:
        The comparisons with adjusted intervals, and Holm's adjusted p-values, shape (m,).
    """
    p = [paired.p for paired in found]
    adjusted = holm(p)
    result = []
    for paired, at, level, rejected in zip(found, intervals, holm_levels(p, alpha), adjusted < alpha, strict=True):
        low, high = at(float(level))
        least = abs(paired.difference) / max(1, paired.n)
        if not rejected:
            low, high = min(low, 0.0), max(high, 0.0)
        elif paired.difference > 0:
            low, high = max(low, least), max(high, least)
        else:
            low, high = min(low, -least), min(high, -least)
        result.append(replace(paired, low=low, high=high))
    return result, adjusted


def compare_flags(a: np.ndarray, b: np.ndarray, alpha: float = ALPHA) -> Paired:
    """Compare two defenses by a flag (robust, correct) on the same images.

    Args:
        a: flags of the first, shape (S_a, n), one row per training seed.
        b: flags of the second, shape (S_b, n).
        alpha: one minus the confidence of the interval, in (0, 1).

    Returns:
        Difference of the accuracies with its bootstrap interval, and the sign-flip test's p.
    """
    d, unit = integer_differences(a, b)
    return compare_tally(tally(d), unit, bootstrap_difference(d, unit, alpha))


def compare_tally(d: Tally, unit: int, interval: tuple[float, float]) -> Paired:
    """Return the comparison of two defenses whose paired differences are known.

    Args:
        d: differences of their outcomes, integers.
        unit: one step of d is worth 1 / unit.
        interval: of the mean difference.
    """
    return Paired(d.mean / unit, *interval, sign_flip_of(d), d.n, d.positive, d.negative, d.squares / unit**2)


def bootstrap_difference(d: np.ndarray, unit: int = 1, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the percentile interval of mean(d) / unit under resampling of images with replacement.

    Resampling n images draws their counts from the multinomial of the paired outcomes. The sum of d over them has
    the characteristic function φ(t)ⁿ, φ that of one image's d; an FFT turns it into the distribution that a
    bootstrap of ever more draws tends to, so nothing is drawn at random. If all images agree there is nothing to
    resample: the interval is then d ± the exact upper limit of the share of images on which they could differ.

    Args:
        d: paired differences, integers, shape (n,).
        unit: one step of d is worth 1 / unit.
        alpha: one minus the confidence, in (0, 1).

    Returns:
        Lower and upper end, in [-1, 1] for flags.
    """
    return bootstrap_difference_of(tally(d), unit, alpha)


def bootstrap_difference_of(d: Tally, unit: int = 1, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the same interval of a tally of differences.

    Args:
        d: paired differences, integers.
        unit: one step of d is worth 1 / unit.
        alpha: one minus the confidence, in (0, 1).
    """
    n = d.n
    if len(d.values) == 1:
        slack, centre = clopper_pearson(0, n, alpha)[1], float(d.values[0]) / unit
        return max(-1.0, centre - slack), min(1.0, centre + slack)
    size = 1 << int(np.ceil(np.log2(24 * np.sqrt(n * d.variance) + 64)))  # twelve standard deviations to either side
    start = d.total - size // 2
    k = np.arange(size // 2 + 1)
    phi = _turns(size, tuple(d.values.tolist())) @ (d.counts / n)
    shifted = phi**n * np.exp(2j * np.pi / size * (k * start % size))
    cdf = np.cumsum(np.clip(np.fft.irfft(shifted, size), 0.0, None))
    low, high = np.searchsorted(cdf, [cdf[-1] * alpha / 2, cdf[-1] * (1 - alpha / 2)])
    return (start + int(low)) / (n * unit), (start + int(high)) / (n * unit)


@lru_cache(maxsize=64)
def _turns(size: int, values: tuple[int, ...]) -> np.ndarray:
    """Return exp(−2πi·k·v / size) at k = 0..size/2 for each of some values v, shape (size/2 + 1, m)."""
    found: np.ndarray = np.exp(-2j * np.pi / size * (np.outer(np.arange(size // 2 + 1), values) % size))
    return found


def bootstrap_mean(values: np.ndarray, alpha: float = ALPHA, draws: int = 2_000) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over images (Efron and Tibshirani 1993, section 13.3).

    The random generator is seeded with 0, so that the same values give the same interval.

    Args:
        values: real numbers, shape (n,), n ≥ 1.
        alpha: one minus the confidence, in (0, 1).
        draws: bootstrap samples of n images, ≥ 1.

    Returns:
        Lower and upper end, in the unit of the values.
    """
    rng, n = np.random.default_rng(0), len(values)
    block = max(1, 2_000_000 // n)
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    means = np.concatenate([values[rng.integers(0, n, (size, n))].mean(1) for size in sizes])
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def bootstrap_ratio(a: np.ndarray, b: np.ndarray, alpha: float = ALPHA, draws: int = 2_000) -> tuple[float, float]:
    """Return the percentile bootstrap interval of mean(a) / mean(b), both means over the same drawn images.

    The random generator is seeded with 0, so that the same values give the same interval.

    Args:
        a: positive numbers, shape (n,), n ≥ 1.
        b: positive numbers on the same images, shape (n,).
        alpha: one minus the confidence, in (0, 1).
        draws: bootstrap samples of n images, ≥ 1.

    Returns:
        Lower and upper end.
    """
    rng, n, ratios = np.random.default_rng(0), len(a), list[np.ndarray]()
    block = max(1, 2_000_000 // n)
    for start in range(0, draws, block):
        drawn = rng.integers(0, n, (min(block, draws - start), n))
        ratios.append(a[drawn].mean(1) / b[drawn].mean(1))
    low, high = np.quantile(np.concatenate(ratios), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def compare_values(a: np.ndarray, b: np.ndarray, alpha: float = ALPHA, draws: int = DRAWS) -> Paired:
    """Compare two defenses by a real number per image (curvature, say), each image's mean over seeds.

    The interval is the percentile bootstrap over images; p is the sign-flip test with `draws` random flips,
    (1 + hits) / (1 + draws), so it is never below 1 / (1 + draws).

    Args:
        a: values of the first, shape (n,), means over seeds.
        b: values of the second on the same images, shape (n,).
        alpha: one minus the confidence, in (0, 1).
        draws: draws of bootstrap and test, ≥ 1.

    Returns:
        Difference of the means with its bootstrap interval, and the sign-flip test's p.
    """
    d = a - b
    n, rng = len(d), np.random.default_rng(1)
    block = max(1, 4_000_000 // n)
    low, high = bootstrap_mean(d, alpha, draws)
    hits = 0
    for start in range(0, draws, block):
        flips = rng.integers(0, 2, (min(block, draws - start), n), dtype=np.int8) * 2 - 1
        hits += int((np.abs(flips @ d) >= abs(d.sum()) * (1 - 1e-12)).sum())
    p, better, worse = (1 + hits) / (1 + draws), int((d > 0).sum()), int((d < 0).sum())
    return Paired(float(d.mean()), low, high, p, n, better, worse, (better + worse) / n)
