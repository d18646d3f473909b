"""Flatness beside robustness: per image and per defense."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from bench.core.stats.intervals import ALPHA
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.figures import flatness, plot_data
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.flatness import DISTANCE, Images, Target
from bench.reports.figures.sheet import PANEL, Sheet, slug
from bench.reports.figures.ticks import log_ticks, percent_ticks
from bench.reports.formatting import Value

DOTS = 320  # images drawn in one panel, shared by its defenses
GOLDEN = 0.618034  # dots on one step are spread by the golden ratio and not by chance


@figure(order=60)
def flatness_against_robustness(board: Board, tables: Tables) -> Figure | None:
    """Draw each flatness against margin and breaking distance image by image, and against the ranking column by row."""
    rows, every, columns = plot_data.drawn(board), plot_data.told(board), flatness.flat_columns(board)
    panels: list[Panel] = []
    measured = {row.defense: flatness.images(board, tables[row.defense]) for row in rows}
    for column in columns:
        found = [_by_image(board, measured, rows, column, target) for target in flatness.targets(board)]
        panels += [panel for panel in (*found, _by_defense(board, every, column)) if panel is not None]
    if not panels:
        return None
    above = f"; large marks are the defenses, {plot_data.title(board)} above their mean" if board.ranking else ""
    across = [(flatness.label(c), flatness.across(board, every, c)) for c in columns]
    known = [f"{label} {formatting.correlation(rho)}" for label, rho in across if rho is not None]
    means = f" Rank correlation across the defenses with {plot_data.title(board)}: {', '.join(known)}."
    return Figure(
        name="flatness",
        title=finding(across, len(every)),
        caption="Flatness (horizontal, log scale) against robustness (vertical): small dots are correctly classified "
        f"test images, up to {DOTS} per panel{above}. "
        "The breaking distance is the smallest budget at which any attack broke the image; those that none broke "
        f"stand on top.{means if known else ''}",
        alt="Clouds of images: " + ", ".join(panel.title for panel in panels) + ".",
        panels=tuple(panels),
        folded=True,
        header=("Flatness", "Rank correlation across defenses", "Defenses"),
        numbers=tuple(
            (Value(label), Value(rho, "correlation"), Value(len(every), "integer"))
            for label, rho in across
            if rho is not None
        ),
    )


def finding(across: list[tuple[str, float | None]], defenses: int) -> str:
    """Return whether flatter defenses are the more robust ones: the strongest correlation, and whether it is shown.

    Args:
        across: measure of flatness, and its rank correlation with robustness across the defenses.
        defenses: how many.
    """
    known = [(rho, label) for label, rho in across if rho is not None]
    if not known:
        return f"Too few defenses to say whether flatness goes with robustness: {defenses}"
    rho, label = max(known, key=lambda pair: abs(pair[0]))
    shown = f"ρ\u00a0=\u00a0{formatting.correlation(rho)} for {label.lower()} across {formatting.spelled(defenses)}"
    if len(known) * flatness.rank_p(rho, defenses) >= ALPHA:  # the strongest of several (Bonferroni)
        return f"Flatter is not shown to be more robust: {shown}"
    return f"{'Flatter is more robust' if rho < 0 else 'Flatter is less robust'}: {shown}"


def _by_image(
    board: Board, measured: Mapping[str, Images], rows: list[Row], column: BoardColumn, target: Target
) -> Panel | None:
    """Draw a flatness against a robustness, a dot per image."""
    steps = flatness.budgets(board) if target is DISTANCE else []
    clouds = [(row, _points(measured[row.defense], column, target)) for row in rows]
    clouds = [(row, points[:: max(1, -(-len(points) * len(rows) // DOTS))]) for row, points in clouds if len(points)]
    if not clouds or (target is DISTANCE and not steps):
        return None
    sheet = Sheet(board, PANEL, (46, 12, 24, 8))
    for row, points in clouds:
        x, y = points.T
        if target is DISTANCE:  # few values: spread within a step
            y = np.searchsorted(steps, y) + 0.6 * (np.arange(len(y)) * GOLDEN % 1 - 0.5)
        sheet.mark(sheet.axes.scatter(x, y, s=9, color=sheet.looks[row.defense].colour, alpha=0.45, lw=0), row)
    lowest, highest = (f(f(points[:, 0]) for _, points in clouds) for f in (min, max))
    _log_axis(sheet.axes, lowest, highest)
    if target is DISTANCE:
        sheet.axes.yaxis.set_major_locator(FixedLocator(range(len(steps) + 1)))
        sheet.axes.set_yticklabels([*(f"{b:g}" for b in steps), "held"])
        sheet.axes.set_ylim(-0.5, len(steps) + 0.5)
    label = flatness.label(column)
    return Panel(f"{label} and {target.name}", sheet.finish(f"flatness-{slug(column.name)}-{slug(target.name)}"))


def _log_axis(axes: Axes, lowest: float, highest: float) -> None:
    """Make the horizontal axis logarithmic, with room at both ends."""
    axes.set(xscale="log", xlim=(lowest / 1.3, highest * 1.3))
    log_ticks(axes, "x", lowest / 1.3, highest * 1.3, "{:g}")


def _points(images: Images, column: BoardColumn, target: Target) -> np.ndarray:
    """Return (flatness, robustness) of the correctly classified images that have both, shape (m, 2)."""
    flat, robust = images.flat[column.name], images.robust[target.name]
    kept = (flat > 0) & ~np.isnan(robust) & images.right
    return np.column_stack([flat[kept], robust[kept]])


def _by_defense(board: Board, rows: list[Row], column: BoardColumn) -> Panel | None:
    """Draw the means of the defenses: a flatness against the ranking column."""
    found = [(r, r.value(column), r.value(board.ranking_column)) for r in rows]
    points = [(row, x, 100 * y) for row, x, y in found if x is not None and x > 0 and y is not None]
    if len(points) < 2:
        return None
    sheet = Sheet(board, PANEL, (46, 12, 24, 8))
    for row, x, y in points:
        sheet.line(row, [x], [y], markersize=8, ls="none")
    sheet.axes.margins(y=0.15)
    _log_axis(sheet.axes, min(x for _, x, _ in points), max(x for _, x, _ in points))
    percent_ticks(sheet.axes)
    return Panel(f"{flatness.label(column)}, by defense", sheet.finish(f"flatness-{slug(column.name)}-means"))
