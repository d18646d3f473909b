"""Recompute the tables behind the page's figures from examples.parquet, without bench; trainings and times excepted."""

import itertools

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

CURVES = {"random": "", "worst": "_worst", "approximation": "_approximation", "bound": "_bound"}  # word → column


def column_of(words: str) -> str:
    """Return the column that a label names: "PGD ℓ₂" → "pgd_l2", "Stability 0.1" → "stability_0.1"."""
    return words.lower().replace("ℓ₂", "l2").replace("ℓ∞", "linf").replace(" ", "_")


def mean(mine: pd.DataFrame, column: str) -> float:
    """Return the mean over seeds of the means over images, NaN where there is none."""
    return mine.astype({column: float}).groupby("seed")[column].mean().mean() if column in mine else np.nan


def accuracy(mine: pd.DataFrame, attack: str, budgets: list[str]) -> list[float]:
    """Return the accuracy, in per cent, without an attack and at every budget."""
    return [100 * mean(mine, c) for c in ("clean_correct", *(f"{column_of(attack)}_{e}_robust" for e in budgets))]


def stability(mine: pd.DataFrame, curve: str, radii: list[str]) -> list[float]:
    """Return the median of a curve over images and seeds at every radius."""
    suffix = next(CURVES[word] for word in CURVES if word in curve)
    found = [mine[f"stability_{r}{suffix}"].dropna() for r in radii]
    return [x.quantile(0.5, "nearest") for x in found]


def correlation(mine: pd.DataFrame, flat: list[str], attacks: dict[str, float], pair: tuple[str, str]) -> list[float]:
    """Return Spearman's ρ over the images that are right and have everything, mean over seeds, and their number."""
    mine = mine.assign(**{"breaking distance": np.where(mine[list(attacks)].notna().any(axis=1), np.inf, np.nan)})
    for column, eps in attacks.items():
        mine.loc[mine[column].eq(False).fillna(False) & (mine["breaking distance"] > eps), "breaking distance"] = eps
    mine = mine[mine["clean_correct"]].dropna(subset=[*flat, "margin", "breaking distance"])
    seeds = [s for _, s in mine.groupby("seed") if all(s[c].nunique() > 1 for c in pair)]
    return [float(np.mean([spearmanr(*(s[c] for c in pair))[0] for s in seeds])), len(seeds[0])]


def across(means: dict[str, list[float]]) -> dict[tuple[str, str], float]:
    """Return Spearman's ρ across the defenses of every two columns of means."""
    return {(a, b): float(spearmanr(means[a], means[b])[0]) for a, b in itertools.permutations(means, 2)}
