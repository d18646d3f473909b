"""Curvature against gradient norm, image by image."""

from __future__ import annotations

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures import plot_data
from bench.reports.figures.sheet import Figure, Panel, Sheet, log_ticks


def curvature_against_gradient(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw curvature against gradient norm: a cloud of images and the board's mean per defense."""
    x, y = "gradient_norm", "curvature"
    rows = [r for r in plot_data.drawn(board) if plot_data.value(r, x) and plot_data.value(r, y)]
    if not rows or x not in board.examples or y not in board.examples:
        return None
    sheet = Sheet(board, 620, 440, (56, 10, 44, 8))
    for row in rows:
        points, look = plot_data.cloud(tables[row.defense], x, y), sheet.looks[row.defense]
        dots = sheet.axes.scatter(points[:, 0], points[:, 1], s=9, color=look.colour, alpha=0.3, lw=0)
        sheet.mark(dots, row)
    for row in rows:
        sheet.line(row, [plot_data.value(row, x)], [plot_data.value(row, y)], markersize=10, ls="none", zorder=5)
    sheet.axes.set(xscale="log", yscale="log", xlabel="Gradient norm ‖∇f‖ (log scale)", ylabel="Curvature (log scale)")
    for axis, limits in (("x", sheet.axes.get_xlim()), ("y", sheet.axes.get_ylim())):
        log_ticks(sheet.axes, axis, *limits, "{:g}")
    flattest = min(rows, key=lambda r: plot_data.value(r, y) or 0.0)
    smallest = min(rows, key=lambda r: plot_data.value(r, x) or 0.0)
    return Figure(
        name="curvature",
        title="Flat is not the same as small gradients",
        caption=f"Each faint dot is one test image (up to {plot_data.CLOUD} per defense); large marks are the means on "
        "the board. Low means flat (low normalised curvature), left means small gradients.",
        alt=f"Lowest mean curvature: {flattest.defense}; smallest mean gradient norm: {smallest.defense}.",
        panels=(Panel("", sheet.finish("curvature")),),
        wide=True,
        header=("Defense", "Gradient norm", "Curvature"),
        numbers=tuple(
            (r.defense, *(formatting.number(plot_data.value(r, c)) for c in (x, y))) for r in rows
        ),
    )  # fmt: skip
