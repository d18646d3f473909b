"""Ranks and order statistics of many values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nearest_quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the values that stand nearest to given shares of the order: `np.quantile(…, method="nearest")`.

    numpy selects one place with vector instructions, several at once without: one after the other is ten times faster.

    Args:
        values: no NaN, shape (n,), n ≥ 1.
        shares: in [0, 1], shape (m,).

    Returns:
        Some of the values, shape (m,).
    """
    places = np.around((len(values) - 1) * np.asarray(shares, dtype="float64")).astype(np.intp)
    return np.array([np.partition(values, place)[place] for place in places])


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
