"""Ranks and order statistics of many values, by one sort each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nearest_quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the values that stand nearest to given shares of the order: `np.quantile(…, method="nearest")`, by a sort.

    numpy sorts floats with vector instructions; to select several places takes it several times as long.

    Args:
        values: no NaN, shape (n,), n ≥ 1.
        shares: in [0, 1], shape (m,).

    Returns:
        Some of the values, shape (m,).
    """
    places = np.around((len(values) - 1) * np.asarray(shares, dtype="float64")).astype(np.intp)
    found: np.ndarray = np.sort(values)[places]
    return found


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values from 1; equal ones share the mean of their places.

    Args:
        values: no NaN, infinite ones allowed, shape (n,).

    Returns:
        Whole or half numbers, shape (n,).
    """
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(values) else order
    ends = np.append(starts[1:], len(values))
    found = np.empty(len(values))
    found[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return found
