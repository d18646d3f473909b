"""Recompute every number of leaderboard.csv from examples.parquet; independent of bench on purpose.

Usage: python recompute.py FOLDER. Prints one line per number that does not agree; exit code 1 if there is one.
Of each column only the definition in README is used: mean over images, then over seeds; events are summed.
"""

import sys
from pathlib import Path

import pandas as pd
from scipy.stats import binomtest, norm

NOT_PER_EXAMPLE = ("rank", "defense", "trust", "train_seconds", "train_cost", "eval_")


def source(name: str, examples: pd.DataFrame) -> str:
    """Return the per-example column behind a board column."""
    known = {"clean_accuracy": "clean_correct"}
    return next(c for c in (known.get(name, name), f"{name}_robust") if c in examples)


def interval(value: float, n: int) -> tuple[float, float]:
    """Return Wilson's interval at k = round(value·n), Clopper and Pearson's where k is 0 or n."""
    k = round(value * n)
    if k in (0, n):
        exact = binomtest(k, n).proportion_ci(0.95, method="exact")
        return exact.low, exact.high
    z, p = norm.ppf(0.975), k / n
    root = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (p + z * z / (2 * n) - root) / (1 + z * z / n), (p + z * z / (2 * n) + root) / (1 + z * z / n)


def check(folder: Path) -> list[str]:
    """Return a line per number of leaderboard.csv that its examples do not give."""
    board = pd.read_csv(folder / "leaderboard.csv")
    tables = [pd.read_parquet(folder / "examples.parquet")]
    if (folder / "examples_train.parquet").is_file():
        tables.append(pd.read_parquet(folder / "examples_train.parquet"))
    wrong = []
    for name in board.columns:
        if name.startswith(NOT_PER_EXAMPLE) or name.endswith(("_low", "_high")) or name in ("seeds", "n"):
            continue
        examples = next(t for t in reversed(tables) if name.startswith("train_") == ("train_" in t.columns[4]))
        column = source(name, examples)
        for _, row in board.iterrows():
            mine = examples[examples["defense"] == row["defense"]].dropna(subset=[column])
            by_seed = mine.astype({column: float}).groupby("seed")[column]
            value = by_seed.sum().sum() if name == "bound_violations" else by_seed.mean().mean()
            found = {name: value}
            if f"{name}_low" in board:
                found[f"{name}_low"], found[f"{name}_high"] = interval(value, mine["index"].nunique())
            wrong += [
                f"{row['defense']}: {key} is {row[key]}, examples give {new}"
                for key, new in found.items()
                if not (abs(new - row[key]) <= 1e-12 * max(1, abs(new)) or (pd.isna(new) and pd.isna(row[key])))
            ]
    return wrong


if __name__ == "__main__":
    problems = check(Path(sys.argv[1]))
    print("\n".join(problems) or "every number agrees")
    sys.exit(bool(problems))
