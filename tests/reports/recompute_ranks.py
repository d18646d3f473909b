"""Recompute the ranks and pairs of FOLDER's leaderboard.json from examples.parquet; independent of bench on purpose."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests


def p_value(d: np.ndarray) -> float:
    """Return P(|sum of ±d| ≥ |sum of d|), every sign with probability ½, by convolving image after image."""
    pmf = np.ones(1)
    for size in np.abs(d[d != 0]):
        pmf = np.convolve(pmf, np.r_[0.5, np.zeros(2 * size - 1), 0.5])
    return float(pmf[np.abs(np.arange(len(pmf)) - len(pmf) // 2) >= abs(d.sum())].sum())


def check(folder: Path) -> list[str]:
    """Return a line per place, range, difference, count or p that the examples do not give."""
    board = json.loads((folder / "leaderboard.json").read_text())
    examples = pd.read_parquet(folder / "examples.parquet")
    column = next(c["example_column"] for c in board["columns"] if c["name"] == board["ranking"])
    rows = {row["defense"]: row for row in board["rows"] if row["rank"] is not None}
    flags = {}
    for name in rows:
        mine = examples[examples["defense"] == name].dropna(subset=[column]).astype({column: int})
        flags[name] = mine.pivot(index="index", columns="seed", values=column)
    d, wrong = {}, []
    for a, b in itertools.combinations(rows, 2):
        x, y = flags[a], flags[b]
        d[a, b] = (x.sum(axis=1) * y.shape[1] - y.sum(axis=1) * x.shape[1]).to_numpy()
    p = dict(zip(d, multipletests([p_value(v) for v in d.values()], method="holm")[1], strict=True)) if d else {}
    found = {name: {"rank": 1, "rank_low": 1, "rank_high": len(rows)} for name in rows}
    for pair in board["pairs"]:
        a, b = key = pair["a"], pair["b"]
        units = flags[a].shape[1] * flags[b].shape[1]
        counts = {"only_a": (d[key] > 0).sum(), "only_b": (d[key] < 0).sum(), "n": len(d[key])}
        for what, new in {"difference": d[key].mean() / units, "p_holm": p[key], **counts}.items():
            wrong += [f"{a}, {b}: {what} is {pair[what]}, not {new}"] * int(abs(pair[what] - new) > 1e-9)
        found[b]["rank"] += d[key].sum() > 0
        found[b]["rank_low"] += p[key] < 0.05
        found[a]["rank_high"] -= p[key] < 0.05
    return wrong + [f"{n}: {k} is {rows[n][k]}, not {v}" for n in rows for k, v in found[n].items() if rows[n][k] != v]


if __name__ == "__main__":
    sys.exit("\n".join(check(Path(sys.argv[1]))) or print("every rank agrees"))
