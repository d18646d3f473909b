"""The paper's Figure 1: decision boundaries in the plane, and softplus beside centered softplus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import NAME, PANEL, Sheet, slug

POINTS = 200  # drawn per class, by a fixed stride
BETAS = {0.3: 0.3, 0.5: 0.45, 1.0: 0.6, 3.0: 0.8, 20.0: 1.0}  # of softplus, with the opacity of the line
# `probability`, rows of the probability of class 1, lowest row first; `extent`, [left, right, bottom, top].
Grid: TypeAlias = Mapping[str, Any]


@figure(order=10)
def decision_boundaries(board: Board, tables: Tables) -> Figure | None:
    """Draw the maps of the plane that an evaluation stored, and centered softplus (the paper's Figure 1)."""
    maps = grids(board)
    if not maps:
        return None
    names = list(dict.fromkeys(row.defense for row, _, _ in maps))
    panels = [_map(board, _with_points(board, tables, row), row, seed, grid) for row, seed, grid in maps]
    return Figure(
        name="boundaries",
        title=finding(board, names),
        caption="The paper's Figure 1 (a, b): the heavy line is the decision boundary (probability one half), the fine "
        "ones are 10, 25, 75 and 90 %; circles and crosses are points of the two labels, as the data have them. Last, "
        "its Figure 1 (c): softplus grows without limit as its β falls, while centered softplus tends to x/2.",
        alt=f"Decision boundaries of {formatting.listing(list(dict.fromkeys(row.title for row, _, _ in maps)))}.",
        panels=(*panels, *(_softplus(board, centered) for centered in (False, True))),
        legend="never",
    )


def finding(board: Board, names: list[str]) -> str:
    """Return what the maps show in one number: how many points the networks put on the right side of their lines.

    Args:
        board: what was measured.
        names: the defenses with a map.
    """
    clean = board.first("clean")
    rows = [row for row in board.rows if row.defense in names and row.value(clean) is not None]
    if clean is None or not rows:
        return f"Where {formatting.spelled(len(names))} draw the line"
    shares = sorted((row.value(clean) or 0.0, row.title) for row in rows)
    n = max(row.cells[clean.name].n for row in rows)
    (low, last), (high, first) = shares[0], shares[-1]
    if low == high:
        return f"Different lines, the same accuracy: {formatting.percent(high, n)}\u00a0% of the points are right"
    ends = f"from {formatting.percent(low, n)}\u00a0% ({last}) to {formatting.percent(high, n)}\u00a0% ({first})"
    return f"Where the networks draw the line: {ends} of the points are right"


def grids(board: Board) -> list[tuple[Row, int, Grid]]:
    """Return the runs whose evaluation stored a map of the plane as `grid` in its cell's info: (row, seed, grid)."""
    return [
        (row, seed, info["grid"])
        for row in board.rows
        for seed, run in row.runs.items()
        for info in run.info.values()
        if "grid" in info
    ]


def _with_points(board: Board, tables: Tables, row: Row) -> pd.DataFrame:
    """Return a row's table with the coordinates of points: of the training points where they were evaluated."""
    trained = board.train_examples
    if board.examples_with("coordinate", among=trained):
        return trained[trained["defense"] == row.defense]
    return tables[row.defense]


def _map(board: Board, table: pd.DataFrame, row: Row, seed: int, grid: Grid) -> Panel:
    """Draw the lines of equal probability of one run, and the points of the two classes."""
    sheet = Sheet(board, (PANEL[0], 268), (30, 12, 24, 8))
    p = np.array(grid["probability"], dtype="float64")
    left, right, bottom, top = grid["extent"]
    plane = (np.linspace(left, right, p.shape[1]), np.linspace(bottom, top, p.shape[0]), p)
    colour = sheet.looks[row.defense].colour
    sheet.axes.contourf(*plane, levels=[0.5, 1.01], colors=[colour], alpha=0.1)
    sheet.axes.contour(*plane, levels=[0.1, 0.25, 0.75, 0.9], colors=[svg.STRONG], linewidths=0.9)
    sheet.axes.contour(*plane, levels=[0.5], colors=[colour], linewidths=2.2)
    for label, marker in enumerate("ox"):
        found = points(board, table, seed, label)
        sheet.axes.scatter(found[:, 0], found[:, 1], s=7, marker=marker, color=svg.FAINT, alpha=0.6, lw=0.7)
    sheet.axes.set(xlim=(left, right), ylim=(bottom, top))
    sheet.axes.grid(visible=False)
    return Panel(f"{row.title}, seed {seed}", sheet.finish(f"map-{slug(row.anchor)}-{seed}"), row.anchor)


def points(board: Board, table: pd.DataFrame, seed: int, label: int) -> np.ndarray:
    """Return up to POINTS points (m, 2) of one label, where an evaluation stored their coordinates.

    Args:
        board: it says which columns are coordinates.
        table: per-example table of one defense.
        seed: of the run.
        label: the class.
    """
    axes = {board.facts[name].params.get("axis"): name for name in board.examples_with("coordinate", among=table)}
    if not {"x", "y"} <= set(axes):
        return np.empty((0, 2))
    chosen = table[(table["seed"] == seed) & (table["label"] == label)]
    found = np.column_stack([plot_data.numbers(chosen, axes[axis]) for axis in ("x", "y")])
    return found[:: max(1, -(-len(found) // POINTS))]


def _softplus(board: Board, centered: bool) -> Panel:
    """Draw log(1 + e^(βx))/β for several β, from pale (small β) to dark; centered: less its value at 0."""
    sheet = Sheet(board, PANEL, (30, 44, 24, 8))
    x = np.linspace(-4, 4, 161)
    for beta, alpha in BETAS.items():
        y = np.logaddexp(0, beta * x) / beta - (np.log(2) / beta if centered else 0.0)
        sheet.axes.plot(x, y, color=svg.INK, alpha=alpha, lw=1.5)
        if beta in (min(BETAS), max(BETAS)):
            sheet.axes.annotate(
                f"β = {beta:g}", (4, y[-1]), xytext=(4, -3), textcoords="offset points", fontsize=NAME, color=svg.INK
            )
    sheet.axes.set(ylim=(-2.5, 6.2), xlim=(-4, 4))
    title = "Centered softplus" if centered else "Softplus"
    return Panel(f"{title} for β = 0.3 … 20", sheet.finish(f"softplus-{'centered' if centered else 'plain'}"))
