"""Variation over training seeds, kept apart from the variation over test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """What may be said of the training seeds.

    Attributes:
        mean: mean over seeds.
        spread: "none" (1 seed), "range" (2 seeds: both values, no ±), "sd" (≥ 3 seeds).
        low: smallest value.
        high: largest value.
        sd: sample standard deviation (ddof = 1), None below 3 seeds.
        about: what a claim is about: "this trained model", "these trained models" or, from 5 seeds, "the method".
    """

    mean: float
    spread: Literal["none", "range", "sd"]
    low: float
    high: float
    sd: float | None
    about: Literal["this trained model", "these trained models", "the method"]


def describe_seeds(values: Sequence[float]) -> SeedSummary:
    """Return what 1, 2, 3 or 5 seeds permit to say of one number.

    Args:
        values: the number of each training seed, shape (S,), S ≥ 1.
    """
    v = np.asarray(values, dtype=float)
    spread: Literal["none", "range", "sd"] = "none" if len(v) == 1 else "range" if len(v) == 2 else "sd"
    about: Literal["this trained model", "these trained models", "the method"]
    about = "this trained model" if len(v) == 1 else "these trained models" if len(v) < 5 else "the method"
    sd = float(v.std(ddof=1)) if len(v) >= 3 else None
    return SeedSummary(float(v.mean()), spread, float(v.min()), float(v.max()), sd, about)


def variance_components(outcomes: np.ndarray) -> dict[str, float | None]:
    """Split the variance of a board's number into its three sources, kept apart.

    Args:
        outcomes: shape (T, A, n): training seeds × attack seeds × images.

    Returns:
        "images": variance of the number (mean over everything) when n new images are drawn, models fixed;
        "training": sample variance over training seeds (ddof = 1) of their numbers, None for one seed;
        "attack": mean over training seeds of the sample variance over attack seeds, None for one.
    """
    trained, attacked, n = outcomes.shape
    numbers = outcomes.mean(2)
    return {
        "images": float(outcomes.mean((0, 1)).var(ddof=1)) / n if n > 1 else None,
        "training": float(numbers.mean(1).var(ddof=1)) if trained > 1 else None,
        "attack": float(numbers.var(axis=1, ddof=1).mean()) if attacked > 1 else None,
    }
