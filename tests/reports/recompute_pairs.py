"""Recompute intervals and p of pairs, the resolvable gap, variances and Table 3 from the examples, without bench."""

from math import ceil, log2

import numpy as np
import pandas as pd
from scipy.stats import binomtest


def paired(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Compare flags (n, seeds) of two defenses; the interval is that of all multinomial draws of n images.

    The distribution of the sum of n draws is the n-fold convolution of one draw's, nothing is sampled.
    """
    units = x.shape[1] * y.shape[1]
    d = x.sum(1) * y.shape[1] - y.sum(1) * x.shape[1]
    n, one, flips = len(d), np.bincount(d + units, minlength=2 * units + 1) / len(d), np.ones(1)
    pmf = np.ones(1)
    for _ in range(n):
        pmf = np.convolve(pmf, one)
    low, high = ((np.searchsorted(pmf.cumsum(), q) - n * units) / (n * units) for q in (0.025, 0.975))
    if np.ptp(d) == 0:  # nothing to resample: the exact limit of the share on which they could differ
        slack = binomtest(0, n).proportion_ci(0.95, "exact").high
        low, high = max(-1.0, d[0] / units - slack), min(1.0, d[0] / units + slack)
    for size in np.abs(d[d != 0]):
        flips = np.convolve(flips, np.r_[0.5, np.zeros(2 * size - 1), 0.5])
    p = flips[np.abs(np.arange(len(flips)) - len(flips) // 2) >= abs(d.sum())].sum()
    return {"low": low, "high": high, "p": p, "discordance": np.square(d / units).mean()}


def resolvable(n: int, discordances: list[float]) -> float:
    """Return the smallest lead that McNemar's exact test calls significant at the pairs' median discordance."""
    m = min(n, max(round(n * float(np.median(discordances))), ceil(log2(2 / 0.05))))
    return min(((2 * k - m) / n for k in range(ceil(m / 2), m + 1) if binomtest(k, m).pvalue < 0.05), default=1.0)


def variance(flags: np.ndarray) -> dict[str, float | None]:
    """Return the variance of a mean of flags (n, seeds) over images and over trainings."""
    trained = flags.mean(0).var(ddof=1) if flags.shape[1] > 1 else None
    return {"images": flags.mean(1).var(ddof=1) / len(flags), "training": trained, "attack": None}


def discrepancy(test: pd.Series, train: pd.Series) -> tuple[float, float, float]:
    """Return (test − train)/train of two means and its 95 % interval, from the variance of the ratio's logarithm."""
    test, train = test.dropna(), train.dropna()
    ratio, error = test.mean() / train.mean(), np.hypot(test.sem() / test.mean(), train.sem() / train.mean())
    return ratio - 1, ratio * np.exp(-1.959964 * error) - 1, ratio * np.exp(1.959964 * error) - 1
