"""Curvature against gradient norm, image by image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import NARROW, WIDE, Sheet
from bench.reports.figures.ticks import log_ticks
from bench.reports.formatting import Value

CLOUD = 960  # dots drawn, shared by the defenses, by a fixed stride through the images; a third where it is narrow


@figure(order=50)
def curvature_against_gradient(board: Board, tables: Tables) -> Figure | None:
    """Draw curvature against gradient norm: a cloud of images and the board's mean per defense."""
    x, y = board.first("gradient_norm"), board.first("curvature")
    rows = [r for r in plot_data.drawn(board) if r.value(x) and r.value(y)]
    if x is None or y is None or not rows:
        return None
    wide, narrow = (_drawing(board, tables, rows, (x, y), narrow) for narrow in (False, True))
    flattest = min(rows, key=lambda r: r.value(y) or 0.0)
    smallest = min(rows, key=lambda r: r.value(x) or 0.0)
    return Figure(
        name="curvature",
        title=_finding(flattest, smallest, len(rows)),
        caption=f"Each faint dot is one test image (up to {CLOUD // len(rows)} per defense); large marks are the "
        "means on the board. Low means flat (low normalised curvature), left means small gradients.",
        alt=f"Lowest mean curvature: {flattest.title}; smallest mean gradient norm: {smallest.title}.",
        panels=(Panel("", wide, narrow=narrow),),
        wide=True,
        folded=True,
        header=("Defense", "Gradient norm", "Curvature"),
        numbers=tuple((Value(r.title), *(Value(r.value(c), "number") for c in (x, y))) for r in rows),
    )


def _drawing(
    board: Board, tables: Tables, rows: list[Row], columns: tuple[BoardColumn, BoardColumn], narrow: bool
) -> Drawing:
    """Draw the clouds of images and the means."""
    x, y = columns
    most = max(1, CLOUD // len(rows) // (3 if narrow else 1))
    sheet = Sheet(board, NARROW if narrow else WIDE, (56, 10, 48, 8))
    for row in rows:
        points = cloud(tables[row.defense], x.example_column, y.example_column, most)
        colour = sheet.looks[row.defense].colour
        sheet.mark(sheet.axes.scatter(points[:, 0], points[:, 1], s=9, color=colour, alpha=0.3, lw=0), row)
    for row in rows:
        sheet.line(row, [row.value(x)], [row.value(y)], markersize=10, ls="none", zorder=5)
    sheet.axes.set(xscale="log", yscale="log", xlabel="Gradient norm ‖∇f‖ (log scale)", ylabel="Curvature (log scale)")
    for axis, limits in (("x", sheet.axes.get_xlim()), ("y", sheet.axes.get_ylim())):
        log_ticks(sheet.axes, axis, *limits, "{:g}")
    return sheet.finish("curvature-narrow" if narrow else "curvature")


def _finding(flattest: Row, smallest: Row, rows: int) -> str:
    """Return what the means say: whether the flattest defense has the smallest gradients too."""
    if rows == 1:
        return f"How flat {flattest.title} is, and how large its gradients are"
    if flattest is smallest:
        return f"The flattest, {flattest.title}, has the smallest gradients too"
    return f"The flattest, {flattest.title}, is not the one with the smallest gradients, {smallest.title}"


def cloud(table: pd.DataFrame, x: str, y: str, most: int) -> np.ndarray:
    """Return up to `most` pairs (m, 2) of two per-example columns, both present and positive.

    Args:
        table: per-example table of one defense.
        x: a column.
        y: another.
        most: pairs.
    """
    a, b = plot_data.numbers(table, x), plot_data.numbers(table, y)
    kept = (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    pairs = np.column_stack([a[kept], b[kept]])
    return pairs[:: max(1, -(-len(pairs) // most))]
