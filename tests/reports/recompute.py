"""Recompute the table of FOLDER's page and JSON from examples.parquet, without bench (times and grades excepted)."""

import html
import json
import re
import sys
from math import floor
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest, kurtosis, norm, skew

PAGE = r'data-column="{}" data-sort="([^"]*)"[^>]*>\s*<span class="value">([^<]*)'


def check(folder: Path) -> list[str]:
    """Return a line per number that the examples do not give: values, intervals, seeds, and the page's digits."""
    board, page = json.loads((folder / "leaderboard.json").read_text()), (folder / "leaderboard.html").read_text()
    tables = [pd.read_parquet(path) for path in sorted(folder.glob("examples*.parquet"))]
    facts, wrong = {c["name"]: c for c in board["columns"]}, []
    for row in board["rows"]:
        line = re.search(f'data-name="{re.escape(html.escape(row["defense"]))}".*?</tr>', page, re.S)
        for key, cell in row["cells"].items():
            column, how = facts[key]["example_column"], "sum" if facts[key]["aggregate"] == "sum" else "mean"
            mine = next(t for t in tables if column in t)
            mine = mine[mine["defense"] == row["defense"]].dropna(subset=[column]).astype({column: float})
            seeds = mine.groupby("seed")[column].agg(how)
            pairs = [(cell["value"], seeds.agg(how)), *((cell["by_seed"][str(s)], v) for s, v in seeds.items())]
            fraction = facts[key]["aggregate"] == "fraction"
            if cell["low"] is not None and not fraction:
                low, high = mean_interval(mine.groupby("index")[column].mean().to_numpy())
                pairs += [(cell["low"], low), (cell["high"], high)]
            elif cell["low"] is not None:
                k = floor(cell["value"] * (n := mine["index"].nunique()) + 0.5 + 1e-9)
                exact = binomtest(k, n).proportion_ci(0.95, "exact" if k in (0, n) else "wilson")
                pairs += [(cell["low"], exact.low), (cell["high"], exact.high)]
            if line and (shown := re.search(PAGE.format(re.escape(key)), line[0])) and shown[1]:
                scale = 100 if fraction else 1
                pairs += [(float(shown[1]), pairs[0][1]), (shown[2], f"{scale * pairs[0][1]:.17g}")]
            found = [f"{row['defense']}: {key} is {old}, not {new}" for old, new in pairs if not same(old, new)]
            wrong += found if len(mine) else [f"{row['defense']}: {key}"] * (cell["value"] is not None)
    return wrong


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the bootstrap's interval of a mean: Cornish and Fisher's, by draws below 30 images."""
    n = len(values)
    if n < 30:
        means = values[np.random.default_rng(0).integers(0, n, (10_000, n))].mean(1)
        return tuple(np.quantile(means, [0.025, 0.975]))
    if np.ptp(values) == 0:
        return values[0], values[0]
    z, g, k = norm.ppf([0.025, 0.975]), skew(values) / n**0.5, kurtosis(values) / n
    bent = z + g * (z**2 - 1) / 6 + k * (z**3 - 3 * z) / 24 - g**2 * (2 * z**3 - 5 * z) / 36
    return tuple(values.mean() + values.std() / n**0.5 * bent)


def same(old: float | str | None, new: float | str) -> bool:
    """Tell whether two numbers agree to 1e-12, or a shown text to half a unit of its last digit."""
    if not isinstance(old, str):
        return old is not None and abs(old - new) <= 1e-12 * max(1, abs(new))
    digits, _, power = old.replace(",", "").replace("−", "-").partition("e")
    unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(digits) * 10.0 ** int(power or 0) - float(new)) <= 0.501 * unit


if __name__ == "__main__":
    sys.exit("\n".join(check(Path(sys.argv[1]))) or print("every number agrees"))
