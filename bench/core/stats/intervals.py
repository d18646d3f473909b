"""Intervals of fractions: Wilson, and Clopper-Pearson at the ends."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaincinv, ndtri

ALPHA = 0.05  # two-sided, everywhere on the board


def wilson(k: float, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return Wilson's score interval of the fraction k / n.

    (p̂ + z²/2n ± z·√(p̂(1−p̂)/n + z²/4n²)) / (1 + z²/n), z the normal quantile. Wilson 1927; recommended over
    Wald's by Brown, Cai and DasGupta 2001.

    Args:
        k: successes, 0 ≤ k ≤ n; need not be whole.
        n: trials, ≥ 1.
        alpha: one minus the confidence, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].
    """
    z = float(-ndtri(alpha / 2))
    p = k / n
    centre, half = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


def clopper_pearson(k: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the exact interval of the fraction k / n by quantiles of the beta distribution (Clopper, Pearson 1934).

    Its coverage is at least 1 − alpha for every fraction; it is wider than Wilson's.

    Args:
        k: successes, 0 ≤ k ≤ n.
        n: trials, ≥ 1.
        alpha: one minus the confidence, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].
    """
    low = float(betaincinv(k, n - k + 1, alpha / 2)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - alpha / 2)) if k < n else 1.0
    return low, high


def nearest(value: float) -> int:
    """Return the nearest whole number, halves up: `round` takes halves to the even one, 0.5 images to none.

    A mean over seeds is a sum of rounded terms, so a half may come out a little too small.
    """
    return math.floor(value + 0.5 + 1e-9)


def fraction_interval(value: float, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the board's interval of a fraction: Wilson at k = `nearest(value·n)`, exact when k is 0 or n.

    Wilson's interval at the ends is too short; Wald's has no width there at all and is never used.

    Args:
        value: the fraction, in [0, 1].
        n: images that it is the mean of, ≥ 1.
        alpha: one minus the confidence, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].
    """
    k = nearest(value * n)
    return clopper_pearson(k, n, alpha) if k in (0, n) else wilson(k, n, alpha)
