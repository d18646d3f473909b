"""Flatness beside robustness: per image and per defense."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.figures.sheet import Figure, Panel, Sheet, log_ticks, slug

DOTS = 320  # images drawn in one panel, shared by its defenses


def flatness_against_robustness(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw each flatness against margin and breaking distance image by image, and against the ranking column by row."""
    rows, columns = plot_data.drawn(board), plot_data.flat_columns(board)
    panels = []
    for column in columns:
        found = (
            _by_image(board, tables, rows, column, "margin"),
            _by_image(board, tables, rows, column, plot_data.DISTANCE),
            _by_defense(board, rows, column),
        )
        panels += [panel for panel in found if panel is not None]
    if not panels:
        return None
    above = f"; large marks are the defenses, {plot_data.title(board)} above their mean" if board.ranking else ""
    across = [(column, plot_data.across(board, rows, column)) for column in columns]
    known = [f"{formatting.label(c)} {formatting.correlation(rho)}" for c, rho in across if rho is not None]
    return Figure(
        name="flatness",
        title="Flatness beside robustness",
        caption="Flatness (horizontal, log scale) against robustness (vertical): small dots are correctly classified "
        f"test images, up to {DOTS} per panel{above}. "
        "The breaking distance is the smallest budget at which any attack broke the image; those that none broke "
        "stand on top."
        + (
            f" Rank correlation across the defenses with {plot_data.title(board)}: {', '.join(known)}." if known else ""
        ),
        alt="Clouds of images: " + ", ".join(panel.title for panel in panels) + ".",
        panels=tuple(panels),
        header=("Flatness", "Rank correlation across defenses", "Defenses"),
        numbers=tuple(
            (formatting.label(c), formatting.correlation(rho), str(len(rows))) for c, rho in across if rho is not None
        ),
    )


def _by_image(board: Board, tables: plot_data.Tables, rows: list[Row], column: str, target: str) -> Panel | None:
    """Draw a flatness against a robustness, a dot per image."""
    sheet, lowest, highest, budgets = Sheet(board, 280, 220, (46, 12, 24, 8)), np.inf, 0.0, plot_data.budgets(board)
    for row in rows:
        points = _points(board, tables[row.defense], column, target)
        points = points[:: max(1, -(-len(points) * len(rows) // DOTS))]
        if not len(points):
            continue
        x, y = points.T
        if target == plot_data.DISTANCE:  # few values: spread within a step, by the golden ratio and not by chance
            y = np.searchsorted(budgets, y) + 0.6 * (np.arange(len(y)) * 0.618034 % 1 - 0.5)
        lowest, highest = min(lowest, x.min()), max(highest, x.max())
        dots = sheet.axes.scatter(x, y, s=9, color=sheet.looks[row.defense].colour, alpha=0.45, lw=0)
        sheet.mark(dots, row)
    title = f"{formatting.label(column)} and {target}"
    if highest <= 0 or (target == plot_data.DISTANCE and not budgets):
        sheet.finish(f"flatness-{slug(column)}-{slug(target)}")
        return None
    sheet.axes.set(xscale="log", xlim=(lowest / 1.3, highest * 1.3))
    log_ticks(sheet.axes, "x", lowest / 1.3, highest * 1.3, "{:g}")
    if target == plot_data.DISTANCE:
        sheet.axes.yaxis.set_major_locator(FixedLocator(range(len(budgets) + 1)))
        sheet.axes.set_yticklabels([*(f"{b:g}" for b in budgets), "held"])
        sheet.axes.set_ylim(-0.5, len(budgets) + 0.5)
    return Panel(title, sheet.finish(f"flatness-{slug(column)}-{slug(target)}"))


def _points(board: Board, table: pd.DataFrame, column: str, target: str) -> np.ndarray:
    """Return (flatness, robustness) of the correctly classified images that have both, shape (m, 2)."""
    if column not in table or (target != plot_data.DISTANCE and target not in table):
        return np.empty((0, 2))
    y = plot_data.breaking_distance(board, table) if target == plot_data.DISTANCE else plot_data.numbers(table, target)
    pairs = np.column_stack([plot_data.numbers(table, column), y])
    kept = (pairs[:, 0] > 0) & ~np.isnan(pairs[:, 1])
    if "clean_correct" in table:
        kept &= plot_data.numbers(table, "clean_correct") == 1
    return pairs[kept]


def _by_defense(board: Board, rows: list[Row], column: str) -> Panel | None:
    """Draw the means of the defenses: a flatness against the ranking column."""
    found = [(r, plot_data.value(r, column), plot_data.value(r, board.ranking)) for r in rows]
    points = [(row, x, 100 * y) for row, x, y in found if x is not None and x > 0 and y is not None]
    if len(points) < 2:
        return None
    sheet = Sheet(board, 280, 220, (46, 12, 24, 8))
    for row, x, y in points:
        sheet.line(row, [x], [y], markersize=8, ls="none")
    low, high = min(x for _, x, _ in points), max(x for _, x, _ in points)
    sheet.axes.set(xscale="log", xlim=(low / 1.3, high * 1.3))
    sheet.axes.margins(y=0.15)
    log_ticks(sheet.axes, "x", low / 1.3, high * 1.3, "{:g}")
    sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
    return Panel(f"{formatting.label(column)}, by defense", sheet.finish(f"flatness-{slug(column)}-means"))
