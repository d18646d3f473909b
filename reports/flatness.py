"""Does flatness go with robustness? Clouds of images and means of defenses, and their rank correlations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.reports import series, svg, words
from bench.reports.board import Board, Row
from bench.reports.drawing import Figure, Panel, Sheet, log_ticks, room, slug, ticks

DOTS = 320  # images drawn in one panel, shared by its defenses


def curvature_against_gradient(board: Board, tables: series.Tables) -> Figure | None:
    """Draw curvature against gradient norm: a cloud of images and the board's mean per defense."""
    x, y = "gradient_norm", "curvature"
    rows = [r for r in series.drawn(board) if series.value(r, x) and series.value(r, y)]
    if not rows or x not in board.examples or y not in board.examples:
        return None
    sheet = Sheet(board, 620, 440, (56, 10, 44, 8))
    for row in rows:
        points, look = series.cloud(tables[row.defense], x, y), sheet.looks[row.defense]
        dots = sheet.axes.scatter(points[:, 0], points[:, 1], s=9, color=look.colour, alpha=0.3, lw=0)
        sheet.mark(dots, row)
    for row in rows:
        sheet.line(row, [series.value(row, x)], [series.value(row, y)], markersize=10, ls="none", zorder=5)
    sheet.axes.set(xscale="log", yscale="log", xlabel="Gradient norm ‖∇f‖ (log scale)", ylabel="Curvature (log scale)")
    for axis, limits in (("x", sheet.axes.get_xlim()), ("y", sheet.axes.get_ylim())):
        log_ticks(sheet.axes, axis, *limits, "{:g}")
    flattest = min(rows, key=lambda r: series.value(r, y) or 0.0)
    smallest = min(rows, key=lambda r: series.value(r, x) or 0.0)
    return Figure(
        name="curvature",
        title="Flat is not the same as small gradients",
        caption=f"Each faint dot is one test image (up to {series.CLOUD} per defense); large marks are the means on "
        "the board. Low means flat (low normalised curvature), left means small gradients.",
        alt=f"Lowest mean curvature: {flattest.defense}; smallest mean gradient norm: {smallest.defense}.",
        panels=(Panel("", sheet.finish("curvature")),),
        wide=True,
        header=("Defense", "Gradient norm", "Curvature"),
        numbers=tuple(
            (r.defense, words.number(series.value(r, x)), words.number(series.value(r, y))) for r in rows
        ),
    )  # fmt: skip


def flatness_against_robustness(board: Board, tables: series.Tables) -> Figure | None:
    """Draw each flatness against margin and breaking distance image by image, and against the ranking column by row."""
    rows, columns = series.drawn(board), series.flat_columns(board)
    panels = []
    for column in columns:
        found = (
            _by_image(board, tables, rows, column, "margin"),
            _by_image(board, tables, rows, column, series.DISTANCE),
            _by_defense(board, rows, column),
        )
        panels += [panel for panel in found if panel is not None]
    if not panels:
        return None
    above = f"; large marks are the defenses, {series.title(board)} above their mean" if board.ranking else ""
    across = [(column, series.across(board, rows, column)) for column in columns]
    known = [f"{words.label(c)} {words.correlation(rho)}" for c, rho in across if rho is not None]
    return Figure(
        name="flatness",
        title="Flatness beside robustness",
        caption="Flatness (horizontal, log scale) against robustness (vertical): small dots are correctly classified "
        f"test images, up to {DOTS} per panel{above}. "
        "The breaking distance is the smallest budget at which any attack broke the image; those that none broke "
        "stand on top."
        + (f" Rank correlation across the defenses with {series.title(board)}: {', '.join(known)}." if known else ""),
        alt="Clouds of images: " + ", ".join(panel.title for panel in panels) + ".",
        panels=tuple(panels),
        header=("Flatness", "Rank correlation across defenses", "Defenses"),
        numbers=tuple((words.label(c), words.correlation(rho), str(len(rows))) for c, rho in across if rho is not None),
    )


def _by_image(board: Board, tables: series.Tables, rows: list[Row], column: str, target: str) -> Panel | None:
    """Draw a flatness against a robustness, a dot per image."""
    sheet, lowest, highest, budgets = Sheet(board, 280, 220, (46, 12, 24, 8)), np.inf, 0.0, series.budgets(board)
    for row in rows:
        points = _points(board, tables[row.defense], column, target)
        points = points[:: max(1, -(-len(points) * len(rows) // DOTS))]
        if not len(points):
            continue
        x, y = points.T
        if target == series.DISTANCE:  # few values: spread within a step, by the golden ratio and not by chance
            y = np.searchsorted(budgets, y) + 0.6 * (np.arange(len(y)) * 0.618034 % 1 - 0.5)
        lowest, highest = min(lowest, x.min()), max(highest, x.max())
        dots = sheet.axes.scatter(x, y, s=9, color=sheet.looks[row.defense].colour, alpha=0.45, lw=0)
        sheet.mark(dots, row)
    title = f"{words.label(column)} and {target}"
    if highest <= 0 or (target == series.DISTANCE and not budgets):
        sheet.finish(f"flatness-{slug(column)}-{slug(target)}")
        return None
    sheet.axes.set(xscale="log", xlim=(lowest / 1.3, highest * 1.3))
    log_ticks(sheet.axes, "x", lowest / 1.3, highest * 1.3, "{:g}")
    if target == series.DISTANCE:
        sheet.axes.yaxis.set_major_locator(FixedLocator(range(len(budgets) + 1)))
        sheet.axes.set_yticklabels([*(f"{b:g}" for b in budgets), "held"])
        sheet.axes.set_ylim(-0.5, len(budgets) + 0.5)
    return Panel(title, sheet.finish(f"flatness-{slug(column)}-{slug(target)}"))


def _points(board: Board, table: pd.DataFrame, column: str, target: str) -> np.ndarray:
    """Return (flatness, robustness) of the correctly classified images that have both, shape (m, 2)."""
    if column not in table or (target != series.DISTANCE and target not in table):
        return np.empty((0, 2))
    y = series.breaking_distance(board, table) if target == series.DISTANCE else series.numbers(table, target)
    pairs = np.column_stack([series.numbers(table, column), y])
    kept = (pairs[:, 0] > 0) & ~np.isnan(pairs[:, 1])
    if "clean_correct" in table:
        kept &= series.numbers(table, "clean_correct") == 1
    return pairs[kept]


def _by_defense(board: Board, rows: list[Row], column: str) -> Panel | None:
    """Draw the means of the defenses: a flatness against the ranking column."""
    found = [(r, series.value(r, column), series.value(r, board.ranking)) for r in rows]
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
    return Panel(f"{words.label(column)}, by defense", sheet.finish(f"flatness-{slug(column)}-means"))


def rank_correlation(board: Board, tables: series.Tables) -> Figure | None:
    """Draw the rank correlations of flatness with robustness, a dot per defense, one panel per flatness."""
    found = series.correlations(board, tables)
    if not found:
        return None
    panels, rows = [], series.drawn(board)
    for column in dict.fromkeys(c.flatness for c in found):
        sheet = Sheet(board, 280, 30 + 22 * len(rows), (room(rows), 12, 24, 4))
        for place, row in enumerate(rows):
            for c in (c for c in found if c.defense == row.defense and c.flatness == column):
                hollow = c.robustness == "margin"
                look = sheet.looks[row.defense]
                face: Any = {"markerfacecolor": svg.PAPER, "markeredgecolor": look.colour, "markeredgewidth": 1.5}
                dot = sheet.axes.plot(c.rho, place, marker="o", ms=7, color=look.colour, **(face if hollow else {}))[0]
                sheet.mark(dot, row)
        sheet.axes.axvline(0, color=svg.STRONG, lw=1, zorder=0)
        sheet.axes.set(xlim=(-1.05, 1.05), ylim=(len(rows) - 0.5, -0.5))
        ticks(sheet.axes, [-1.0, -0.5, 0.0, 0.5, 1.0], "{:g}", "x")
        sheet.axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
        sheet.axes.set_yticklabels([words.short(r.defense) for r in rows])
        sheet.axes.grid(visible=False, axis="y")
        panels.append(Panel(words.label(column), sheet.finish(f"correlation-{slug(column)}")))
    strongest = max(found, key=lambda c: abs(c.rho))
    return Figure(
        name="correlation",
        title="Does flatness explain robustness here?",
        caption="Spearman's rank correlation over the correctly classified images of each defense, mean over seeds. "
        "Filled: with the smallest budget that broke the image; hollow: with the clean margin. Far left: the flatter "
        "the loss around an image, the harder it was to break; 0: flatness tells nothing.",
        alt=f"Strongest: {strongest.flatness} with {strongest.robustness} of {strongest.defense}, "
        f"{words.correlation(strongest.rho)}.",
        panels=tuple(panels),
        legend="never",
        header=("Defense", "Flatness", "Robustness", "ρ", "n"),
        numbers=tuple(
            (c.defense, words.label(c.flatness), c.robustness, words.correlation(c.rho), str(c.n)) for c in found
        ),
    )
