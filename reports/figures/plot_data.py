"""What the figures plot, as plain numbers: curves over budgets and radii, clouds, rank correlations, fronts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from bench.reports import formatting
from bench.reports.board.model import Board, BoardColumn, Row

CLOUD = 120  # points drawn per defense, by a fixed stride through the images


def names(board: Board) -> list[str]:
    """Return the defenses in the plan's order, which does not change with the results."""
    planned = [run.defense for run in board.plan.rows]
    return list(dict.fromkeys([*planned, *(r.defense for r in board.rows)]))


def drawn(board: Board) -> list[Row]:
    """Return the rows that figures show: the ranked ones, or all where nothing is ranked."""
    return [r for r in board.rows if r.rank is not None] or [r for r in board.rows if r.cells]


def families(board: Board, fractions: bool) -> dict[str, list[BoardColumn]]:
    """Return what was measured at several numbers: stem of the name → its columns by rising number.

    Args:
        fractions: whether fractions (accuracies at budgets) are wanted, or other values (stability at radii).
    """
    found: dict[str, list[BoardColumn]] = {}
    for column in board.columns:
        if column.number is not None and (column.facts.aggregate == "fraction") == fractions:
            found.setdefault(stem(column), []).append(column)
    return {k: sorted(v, key=lambda c: c.number or 0.0) for k, v in found.items() if len(v) > 1}


Tables = Mapping[str, pd.DataFrame]


def tables(board: Board) -> Tables:
    """Return the per-example table of each defense: the split is made once, the whole may have millions of rows."""
    found = {str(name): table for name, table in board.examples.groupby("defense", sort=False)}
    return {row.defense: found.get(row.defense, board.examples.iloc[:0]) for row in board.rows}


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64, shape (n,): flags as 0 and 1, whatever is no number as NaN."""
    values = table[column]
    if values.dtype == object or pd.api.types.is_string_dtype(values.dtype):
        values = pd.to_numeric(values, errors="coerce")
    return values.to_numpy(dtype="float64", na_value=np.nan)


def stem(column: BoardColumn) -> str:
    """Return a column's name without its number: "pgd_l2_0.1" → "pgd_l2"."""
    return column.name if column.number is None else column.name.removesuffix(f"_{column.number:g}")


def value(row: Row, name: str) -> float | None:
    """Return the board's number, None where there is none."""
    cell = row.cells.get(name)
    return None if cell is None or formatting.missing(cell.value) else cell.value


def title(board: Board) -> str:
    """Return the ranking column in words: "AutoAttack ℓ₂ at ε = 0.5"."""
    column = next((c for c in board.columns if c.name == board.ranking), None)
    if column is None or column.number is None:
        return formatting.label(board.ranking)
    return f"{formatting.label(stem(column))} at ε\u00a0=\u00a0{column.number:g}"


@dataclass(frozen=True)
class Curve:
    """One per-example quantity over radii: x (m,), median and quartiles over images and seeds (m,)."""

    kind: str
    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def companions(board: Board, family: str) -> list[str]:
    """Return the kinds of columns that stand beside a family: "" itself, then "worst", "bound" and so on."""
    pattern = re.compile(re.escape(family) + r"_[0-9.e+-]+(?:_([a-z_]+))?")
    kinds = [m[1] or "" for c in board.examples.columns if (m := pattern.fullmatch(c))]
    return list(dict.fromkeys(kinds))


def curves(board: Board, table: pd.DataFrame, family: str) -> list[Curve]:
    """Return a family's curves of one defense's table, over all of its images and seeds."""
    radii = [c.number for c in families(board, fractions=False)[family] if c.number is not None]
    found = []
    for kind in companions(board, family):
        suffix = f"_{kind}" if kind else ""
        points = [(r, _quartiles(numbers(table, c))) for r in radii if (c := f"{family}_{r:g}{suffix}") in table]
        points = [(r, q) for r, q in points if q is not None]
        if points:
            q = np.array([q for _, q in points])
            found.append(Curve(kind, np.array([r for r, _ in points]), q[:, 0], q[:, 1], q[:, 2]))
    return found


def _quartiles(v: np.ndarray) -> np.ndarray | None:
    v = v[~np.isnan(v)]
    return np.quantile(v, (0.25, 0.5, 0.75), method="nearest") if len(v) else None


def cloud(table: pd.DataFrame, x: str, y: str) -> np.ndarray:
    """Return up to CLOUD pairs (m, 2) of two per-example columns, both present and positive."""
    pairs = np.column_stack([numbers(table, x), numbers(table, y)])
    pairs = pairs[np.isfinite(pairs).all(1) & (pairs > 0).all(1)]
    return pairs[:: max(1, -(-len(pairs) // CLOUD))]


def front(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto front, by rising first coordinate: no other costs as little and reaches more."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, kept = -np.inf, list[int]()
    for i in order:
        if points[i][1] > best:
            best, kept = points[i][1], [*kept, i]
    return kept


DISTANCE = "breaking distance"


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a flatness with a robustness over the images of one defense.

    Attributes:
        defense: whose images.
        flatness: per-example column, e.g. "curvature".
        robustness: "margin" or "breaking distance".
        rho: mean over seeds, in [-1, 1].
        n: images per seed.
    """

    defense: str
    flatness: str
    robustness: str
    rho: float
    n: int


def flat_columns(board: Board) -> list[str]:
    """Return the measures of flatness on the board: curvature, gradient norm, the widest stability of each family."""
    flat = [c for c in ("curvature", "gradient_norm") if c in board.examples]
    return flat + [columns[-1].name for columns in families(board, fractions=False).values()]


def across(board: Board, rows: list[Row], column: str) -> float | None:
    """Return Spearman's rank correlation of a column with the ranking one across defenses; None below four."""
    found = [(value(r, column), value(r, board.ranking)) for r in rows]
    known = np.array([(a, b) for a, b in found if a is not None and b is not None], dtype="float64")
    if len(known) < 4 or (np.ptp(known, axis=0) == 0).any():
        return None
    ranks = rankdata(known, axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])


def budgets(board: Board) -> list[float]:
    """Return every budget that some attack was run at, ascending."""
    fractions = (c for c in board.columns if c.facts.aggregate == "fraction")
    return sorted({c.number for c in fractions if c.number is not None})


def correlations(board: Board, split: Tables) -> list[Correlation]:
    """Return the rank correlations of curvature, gradient norm and the widest stability with margin and distance.

    Over the correctly classified images that have all of them; a defense with fewer than 8 is left out.
    """
    flat = flat_columns(board)
    targets = [t for t in ("margin", DISTANCE) if t == DISTANCE or t in board.examples]
    found = []
    for row in drawn(board):
        seeds = [_rank_correlations(board, t, flat, targets) for _, t in split[row.defense].groupby("seed")]
        for i, column in enumerate(flat):
            for j, target in enumerate(targets):
                rhos = [rho[i, j] for rho, _ in seeds if rho is not None and not np.isnan(rho[i, j])]
                if rhos:
                    found.append(Correlation(row.defense, column, target, float(np.mean(rhos)), seeds[0][1]))
    return found


def _rank_correlations(
    board: Board, table: pd.DataFrame, flat: list[str], targets: list[str]
) -> tuple[np.ndarray | None, int]:
    """Return Spearman's rho (flatness, target), NaN where a column is constant, and the number of images."""
    columns = [numbers(table, c) for c in flat]
    columns += [breaking_distance(board, table) if t == DISTANCE else numbers(table, t) for t in targets]
    values = np.column_stack(columns)
    kept = ~np.isnan(values).any(axis=1)
    if "clean_correct" in table:
        kept &= numbers(table, "clean_correct") == 1
    if kept.sum() < 8:
        return None, int(kept.sum())
    ranks = rankdata(values[kept], axis=0)
    ranks -= ranks.mean(axis=0)
    size = np.sqrt((ranks**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        rho = (ranks.T @ ranks) / np.outer(size, size)
    return rho[: len(flat), len(flat) :], int(kept.sum())


def breaking_distance(board: Board, table: pd.DataFrame) -> np.ndarray:
    """Return per image the smallest budget of any attack that broke it, infinite where none did, NaN if unmeasured."""
    found = np.full(len(table), np.nan)
    for column in board.columns:
        if column.number is not None and column.facts.aggregate == "fraction" and column.example_column in table:
            robust = numbers(table, column.example_column)
            reached = np.where(robust == 1, np.inf, np.where(robust == 0, column.number, np.nan))
            found = np.fmin(found, reached)
    return found


def epochs(board: Board, row: Row, quantity: str) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return (seed, epoch (m,), value (m,)) of a quantity of the training log, where it was logged."""
    found = []
    for seed in row.seeds:
        log = [r for r in board.logs.get((row.defense, seed), ()) if _finite(r.get(quantity))]
        if len(log) > 1:
            found.append((seed, np.array([r["epoch"] for r in log]), np.array([float(r[quantity]) for r in log])))
    return found


def _finite(v: Any) -> bool:
    return isinstance(v, int | float) and bool(np.isfinite(v))


def grids(board: Board) -> list[tuple[Row, int, dict[str, Any]]]:
    """Return the models whose evaluation stored a map of the plane: (row, seed, grid).

    An evaluation of points in the plane stores it as `grid` in its cell's info: `probability`, a list of rows of the
    probability of class 1, lowest row first, and `extent`, [left, right, bottom, top].
    """
    return [
        (row, seed, info["grid"])
        for row in board.rows
        for seed, facts in row.facts.items()
        for info in facts.get("info", {}).values()
        if "grid" in info
    ]


def points(table: pd.DataFrame, seed: int, label: int) -> np.ndarray:
    """Return up to CLOUD points (m, 2) of one class, where an evaluation stored them as point_x and point_y."""
    if not {"point_x", "point_y"} <= set(table.columns):
        return np.empty((0, 2))
    chosen = table[(table["seed"] == seed) & (table["label"] == label)]
    found = np.column_stack([numbers(chosen, "point_x"), numbers(chosen, "point_y")])
    return found[:: max(1, -(-len(found) // CLOUD))]
