"""The interval of a mean over images: where the percentile bootstrap ends up with ever more draws."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import ndtri

from bench.core.stats.intervals import ALPHA
from bench.core.stats.paired import DRAWS, bootstrap_mean

FEWEST: Final = 30  # images from which the series below is used; fewer are resampled


def mean_interval(values: np.ndarray, alpha: float = ALPHA) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over images, without drawing.

    The mean of n resampled images has the cumulants κ₁ = x̄, κ₂ = m₂/n, skewness γ = m₃/(m₂^{3/2} √n) and excess
    kurtosis δ = (m₄/m₂² − 3)/n, m_k the central moments of the values. Its quantiles are Cornish and Fisher's (1938):

        q = x̄ + √(m₂/n) (z + γ (z² − 1)/6 + δ (z³ − 3z)/24 − γ² (2z³ − 5z)/36)

    with an error of the order of n^{−3/2} beside the width. Below `FEWEST` images the draws are made
    (`bootstrap_mean`). It is as asymmetric as the values are skewed, and says nothing about training again.

    Args:
        values: real numbers, one per image, shape (n,), n ≥ 1.
        alpha: one minus the confidence, in (0, 1).

    Returns:
        Lower and upper end, in the unit of the values.
    """
    n = len(values)
    if n < FEWEST:
        return bootstrap_mean(values, alpha, DRAWS)
    centre = float(values.mean())
    d = values - centre
    scale = float(np.abs(d).max())
    if scale == 0.0:
        return centre, centre
    d = d / scale  # so that no power of it overflows
    square = d * d
    second = float(np.mean(square))
    skewness = float(np.mean(square * d)) / second**1.5 / np.sqrt(n)
    kurtosis = (float(np.mean(square * square)) / second**2 - 3.0) / n
    z = ndtri(np.array([alpha / 2, 1 - alpha / 2]))
    bent = z + skewness * (z**2 - 1) / 6 + kurtosis * (z**3 - 3 * z) / 24 - skewness**2 * (2 * z**3 - 5 * z) / 36
    low, high = centre + scale * np.sqrt(second / n) * bent
    return float(low), float(high)
