"""Recompute what the page says in the section of each defense from examples.parquet; independent of bench."""

import re

import pandas as pd

STATEMENT = re.compile(r"((?:tightness|ratio)_.*?)(_[\d.]+(?:e-\d+)?)?(_worst)?")
CASCADE = ("apgd-ce", "apgd-t", "fab-t", "square")  # each attacks what those before have left
Lines = list[list[float]]


def sections(mine: pd.DataFrame, ranking: str) -> dict[str, Lines]:
    """Return the numbers of each table of a defense, line by line as the page orders them, from its examples."""
    at = {True: [], False: [0.5, 0.05, 0.95]}  # quantiles of a flag and of a number
    v = {c: x.astype(float).dropna() for c, x in mine.items() if x.dtype.kind in "fiub"}
    v = {c: x for c, x in v.items() if len(x) and c not in ("seed", "index", "label")}
    broken = mine.get(f"{ranking}_broken_by", pd.Series(dtype=str)).dropna().value_counts()
    stages = [[k, 100 * k / broken.sum()] for k in broken]
    if "autoattack" in ranking and set(broken.index) <= {"", "clean", *CASCADE}:
        counts = [broken.get(name, 0) for name in CASCADE]
        stages = [[k, 100 * k / broken.sum(), sum(counts[i:])] for i, k in enumerate(counts)]
        stages += [[broken[name], 100 * broken[name] / broken.sum()] for name in ("", "clean") if name in broken]
    bounds = [(f"{c[:-6]}_worst" if f"{c[:-6]}_worst" in v else c[:-6], c) for c in v if c.endswith("_bound")]
    ratios = [(v[a] / v[b][v[b] > 0]).dropna() for a, b in bounds if a in v]
    return {
        "Stages of": stages,
        "Measured over bound": [[r.median(), r.max(), len(r)] for r in ratios if len(r)],
        "Tightness of bounds": statements(v, "tightness_"),
        "Rates for": statements(v, "ratio_"),
        "Per-example columns": [
            [x.mean(), *x.quantile(at[mine[c].dtype.kind == "b"], "nearest"), mine[c].isna().sum()]
            for c, x in v.items()
        ],
        "shares": [[100 * x.mean()] for c, x in v.items() if c.startswith("curvature_share_")],
        "certificate": certificate(v),
        "undecided": [[k] for k in [v.get("bounds_undecided", pd.Series([0.0])).sum()] if k],
    }  # fmt: skip


def statements(v: dict[str, pd.Series], prefix: str) -> Lines:
    """Return per statement, radius by radius, the median and the largest ratio, or the per cent above 1."""
    found: dict[str, dict[tuple, list[float]]] = {}
    for column, x in ((c, x) for c, x in v.items() if c.startswith(prefix)):
        last = x.max() if prefix == "tightness_" else 100 * (x > 1).mean()
        statement, *place = STATEMENT.fullmatch(column).groups()
        found.setdefault(statement, {})[tuple(place)] = [x.median(), last]
    places = dict.fromkeys(place for line in found.values() for place in line)
    return [[number for place in places for number in line.get(place, [])] for line in found.values()]


def certificate(v: dict[str, pd.Series]) -> Lines:
    """Return the median radius, the median Lipschitz constant, and how many times the largest slope that is."""
    if not {"certified_radius", "lipschitz_constant", "local_slope"} <= set(v):
        return []
    limit = v["lipschitz_constant"].median()
    return [[v["certified_radius"].median(), limit, limit / v["local_slope"].max()]]
