"""Measures of flatness and of robustness image by image, and how they correlate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from bench.core.records import Role
from bench.core.stats.order import mean_ranks
from bench.reports.board.columns import BoardColumn, families, with_role
from bench.reports.board.model import Board, Row
from bench.reports.figures.figure import Tables
from bench.reports.figures.plot_data import numbers, right, told

LEAST_IMAGES = 8  # for a correlation over images
LEAST_DEFENSES = 4  # for one across defenses


@dataclass(frozen=True)
class Target:
    """A robustness per image: the margin's column, or the smallest budget that broke the image where it is None."""

    name: str
    column: str | None = None

    def values(self, board: Board, table: pd.DataFrame) -> np.ndarray:
        """Return the robustness of each image, (n,), NaN where it was not measured.

        Args:
            board: it says what the columns are.
            table: per-example table of one defense.
        """
        if self.column is None:
            return breaking_distance(board, table)
        return numbers(table, self.column) if self.column in table else np.full(len(table), np.nan)


DISTANCE = Target("breaking distance")


def targets(board: Board) -> list[Target]:
    """Return the measures of robustness that a board has per image."""
    return [*(Target("margin", name) for name in board.examples_with("margin")[:1]), DISTANCE]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a flatness with a robustness over the images of one defense.

    Attributes:
        defense: whose images.
        flatness: column of the board.
        robustness: measured per image.
        rho: mean over seeds, in [-1, 1].
        n: images per seed.
    """

    defense: str
    flatness: BoardColumn
    robustness: Target
    rho: float
    n: int


def flat_columns(board: Board) -> list[BoardColumn]:
    """Return the measures of flatness on the board: curvature, gradient norm, the widest stability of each family."""
    roles: tuple[Role, ...] = ("curvature", "gradient_norm")
    single = [column for role in roles if (column := board.first(role)) is not None]
    return single + [family[-1] for family in families(with_role(board.columns, "stability"))]


def label(column: BoardColumn) -> str:
    """Return a measure of flatness in words: "Stability 0.1"."""
    return column.heading if column.level is None else f"{column.heading} {column.level:g}"


def across(board: Board, rows: list[Row], column: BoardColumn) -> float | None:
    """Return Spearman's rank correlation of a column with the ranking one across defenses; None below four.

    Args:
        board: what was measured.
        rows: the defenses.
        column: a measure of flatness.
    """
    found = [(r.value(column), r.value(board.ranking_column)) for r in rows]
    known = np.array([(a, b) for a, b in found if a is not None and b is not None], dtype="float64")
    if len(known) < LEAST_DEFENSES or (np.ptp(known, axis=0) == 0).any():
        return None
    return float(np.corrcoef([mean_ranks(values) for values in known.T])[0, 1])


def rank_p(rho: float, n: int) -> float:
    """Return the two-sided p of a rank correlation of n pairs, by Student's t with n − 2 degrees of freedom.

    Args:
        rho: in [-1, 1].
        n: at least 3.
    """
    if abs(rho) >= 1:
        return 0.0
    return float(2 * stdtr(n - 2, -abs(rho) * np.sqrt((n - 2) / (1 - rho**2))))


def attacks(board: Board) -> list[BoardColumn]:
    """Return the columns that say whether an image withstands a budget, in the norm of the board's threat."""
    threat = board.threat
    found = [c for c in with_role(board.columns, "robust", "best_known") if c.level is not None]
    return [c for c in found if threat is None or c.facts.params.get("norm") == threat.norm]


def budgets(board: Board) -> list[float]:
    """Return every budget that some attack was run at, ascending."""
    return sorted({c.level for c in attacks(board) if c.level is not None})


def breaking_distance(board: Board, table: pd.DataFrame) -> np.ndarray:
    """Return per image the smallest budget of any attack that broke it, infinite where none did, NaN if unmeasured.

    Args:
        board: it says what the columns are.
        table: per-example table.
    """
    found, measured = np.full(len(table), np.inf), np.zeros(len(table), bool)
    for column in attacks(board):
        if column.level is not None and column.example_column in table:
            robust = numbers(table, column.example_column)
            broken = robust == 0
            measured |= broken | (robust == 1)
            np.minimum(found, column.level, out=found, where=broken)
    found[~measured] = np.nan
    return found


@dataclass(frozen=True)
class Images:
    """How flat and how robust each image of one defense is, over all seeds; NaN where it was not measured.

    Attributes:
        seed: of the model, (n,).
        right: whether it is classified right without an attack, bool (n,).
        flat: column of the board to its values (n,).
        robust: name of a target to its values (n,).
    """

    seed: np.ndarray
    right: np.ndarray
    flat: dict[str, np.ndarray]
    robust: dict[str, np.ndarray]


def images(board: Board, table: pd.DataFrame) -> Images:
    """Return every measure of flatness and of robustness on the images of one defense.

    Args:
        board: it says what the columns are.
        table: per-example table of the defense.
    """
    return Images(
        seed=table["seed"].to_numpy(),
        right=right(board, table),
        flat={column.name: numbers(table, column.example_column) for column in flat_columns(board)},
        robust={target.name: target.values(board, table) for target in targets(board)},
    )


def correlations(board: Board, tables: Tables) -> list[Correlation]:
    """Return the rank correlations of every flatness with every robustness.

    Over the correctly classified images that have all of them; a defense with fewer than 8 is left out.

    Args:
        board: what was measured.
        tables: defense to its per-example table.
    """
    flat, robust = flat_columns(board), targets(board)
    found = []
    for row in told(board):
        measured = images(board, tables[row.defense])
        seeds = [_rank_correlations(measured, measured.seed == seed) for seed in np.unique(measured.seed)]
        for i, column in enumerate(flat):
            for j, target in enumerate(robust):
                rhos = [rho[i, j] for rho, _ in seeds if rho is not None and not np.isnan(rho[i, j])]
                if rhos:
                    found.append(Correlation(row.defense, column, target, float(np.mean(rhos)), seeds[0][1]))
    return found


def _rank_correlations(measured: Images, among: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Return Spearman's rho (flatness, target), NaN where a column is constant, and the number of images."""
    columns = [*measured.flat.values(), *measured.robust.values()]
    kept = among & measured.right
    for values in columns:
        kept &= ~np.isnan(values)
    if kept.sum() < LEAST_IMAGES:
        return None, int(kept.sum())
    ranks = np.column_stack([mean_ranks(values[kept]) for values in columns])
    ranks -= ranks.mean(axis=0)
    size = np.sqrt((ranks**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        rho = (ranks.T @ ranks) / np.outer(size, size)
    return rho[: len(measured.flat), len(measured.flat) :], int(kept.sum())
