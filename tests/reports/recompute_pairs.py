"""Recompute intervals and p of pairs, the resolvable gap, variances and Table 3 from the examples, without bench."""

from math import ceil, floor, log2

import numpy as np
import pandas as pd
from scipy.stats import binomtest


def levels(p: list[float]) -> list[float]:
    """Return the level at which Holm's procedure tests each p-value: 0.05 over its largest factor so far, times p."""
    order, worst, found = sorted(range(len(p)), key=p.__getitem__), 0.0, [0.0] * len(p)
    for place, k in enumerate(order):
        worst = max(worst, p[k] * (len(p) - place))
        found[k] = 0.05 * p[k] / worst
    return found


def paired(x: np.ndarray, y: np.ndarray, level: float = 0.05) -> dict[str, float]:
    """Compare flags (n, seeds) of two defenses; the interval is that of all multinomial draws of n images.

    Where the interval and the exact test disagree about 0, the test decides.

    The distribution of the sum of n draws is the n-fold convolution of one draw's, nothing is sampled.
    """
    units = x.shape[1] * y.shape[1]
    d = x.sum(1) * y.shape[1] - y.sum(1) * x.shape[1]
    n, one, flips = len(d), np.bincount(d + units, minlength=2 * units + 1) / len(d), np.ones(1)
    pmf = np.ones(1)
    for _ in range(n):
        pmf = np.convolve(pmf, one)
    low, high = ((np.searchsorted(pmf.cumsum(), q) - n * units) / (n * units) for q in (level / 2, 1 - level / 2))
    if np.ptp(d) == 0:  # nothing to resample: the exact limit of the share on which they could differ
        slack = binomtest(0, n).proportion_ci(1 - level, "exact").high
        low, high = max(-1.0, d[0] / units - slack), min(1.0, d[0] / units + slack)
    for size in np.abs(d[d != 0]):
        flips = np.convolve(flips, np.r_[0.5, np.zeros(2 * size - 1), 0.5])
    p = flips[np.abs(np.arange(len(flips)) - len(flips) // 2) >= abs(d.sum())].sum()
    sign, least = np.sign(d.sum()), abs(d.mean() / units) / n
    if p >= level:
        low, high = min(low, 0.0), max(high, 0.0)
    else:
        low, high = sorted(sign * max(sign * end, least) for end in (low, high))
    return {"low": low, "high": high, "p": p, "discordance": np.square(d / units).mean()}


def resolvable(n: int, discordances: list[float]) -> float:
    """Return the smallest lead that McNemar's exact test resolves at the pairs' median discordance, for all pairs."""
    level = 0.05 / len(discordances)
    m = min(n, max(floor(n * float(np.median(discordances)) + 0.5 + 1e-9), ceil(log2(2 / level))))
    return min(((2 * k - m) / n for k in range(ceil(m / 2), m + 1) if binomtest(k, m).pvalue < level), default=1.0)


def variance(flags: np.ndarray) -> dict[str, float | None]:
    """Return the variance of a mean of flags (n, seeds) over images and over trainings."""
    trained = flags.mean(0).var(ddof=1) if flags.shape[1] > 1 else None
    return {"images": flags.mean(1).var(ddof=1) / len(flags), "training": trained, "attack": None}


def discrepancy(test: pd.Series, train: pd.Series) -> tuple[float, float, float]:
    """Return (test − train)/train of two means and its 95 % interval, from the variance of the ratio's logarithm."""
    test, train = test.dropna(), train.dropna()
    ratio, error = test.mean() / train.mean(), np.hypot(test.sem() / test.mean(), train.sem() / train.mean())
    return ratio - 1, ratio * np.exp(-1.959964 * error) - 1, ratio * np.exp(1.959964 * error) - 1
