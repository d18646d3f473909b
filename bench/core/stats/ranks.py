"""Ranges of places that the images cannot tell apart, and the smallest gap that n images resolve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.core.stats.intervals import ALPHA, nearest
from bench.core.stats.paired import Paired, bootstrap_difference_of, compare_tally, simultaneous, survival
from bench.core.stats.tallies import pair_tallies


@dataclass(frozen=True, slots=True)
class Ranks:
    """Places of K defenses, and which pairs are told apart.

    Attributes:
        place: 1 + number of strictly better ones, shape (K,); equal ones share.
        low: best place it can hold, 1 + number significantly better, shape (K,).
        high: worst place, K − number significantly worse, shape (K,).
        p: Holm-adjusted p of every pair, shape (K, K); 1 on the diagonal.
        pairs: (i, j), i < j, to the comparison of i with j; its interval is adjusted by the same step as its p.
        discordance: median over pairs of the share of images that tells two defenses apart.
    """

    place: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    pairs: dict[tuple[int, int], Paired]
    discordance: float


def ranks(outcomes: Sequence[np.ndarray], alpha: float = ALPHA) -> Ranks:
    """Rank defenses by a flag where higher is better; Holm over all pairs.

    Args:
        outcomes: per defense its flags on the same images, shape (S_k, n).
        alpha: family-wise error of calling any two equal defenses different, in (0, 1).

    Returns:
        Places, ranges of places and adjusted p-values, in the order of `outcomes`.
    """
    size = len(outcomes)
    tallies = list(pair_tallies(outcomes))
    alone = [compare_tally(d, unit, (0.0, 0.0)) for _, d, unit in tallies]  # the intervals come adjusted
    found, adjusted = simultaneous(alone, [partial(bootstrap_difference_of, d, unit) for _, d, unit in tallies], alpha)
    pairs = {key: paired for (key, _, _), paired in zip(tallies, found, strict=True)}
    p = np.ones((size, size))
    p[np.triu_indices(size, 1)] = adjusted
    p = np.minimum(p, p.T)
    means = np.array([o.mean() for o in outcomes])
    better = means[None, :] > means[:, None]  # [i, j]: j is better than i
    significant = p < alpha
    return Ranks(
        1 + better.sum(1),
        1 + (better & significant).sum(1),
        size - (better.T & significant).sum(1),
        p,
        pairs,
        float(np.median([pair.discordance for pair in pairs.values()])) if pairs else 0.0,
    )


def smallest_resolvable_gap(n: int, discordance: float, pairs: int = 1, alpha: float = ALPHA) -> float:
    """Return the smallest difference that McNemar's exact test resolves on n images, as a fraction.

    That is after correction for all pairs, at the first and strictest step of Holm's procedure: alpha / pairs.

    Args:
        n: images.
        discordance: share of images on which exactly one of two defenses is right; 0.1-0.4 gives 2-4 points at
            n = 1,000 and 0.6-1.25 at 10,000, for one pair. At least as many as could ever be significant (6 at 5 %)
            are assumed.
        pairs: of the board, all compared, ≥ 1.
        alpha: family-wise error, in (0, 1).

    Returns:
        The gap in (0, 1].
    """
    alpha /= pairs
    m = min(n, max(nearest(n * discordance), int(np.ceil(np.log2(2 / alpha)))))
    significant = np.flatnonzero(2.0 * survival(m)[:-1] < alpha)
    return (2 * int(significant[0]) - m) / n if len(significant) else 1.0
