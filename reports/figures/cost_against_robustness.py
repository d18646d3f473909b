"""Training cost against robust accuracy, with the Pareto front."""

from __future__ import annotations

import numpy as np

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import Sheet
from bench.reports.figures.ticks import log_ticks, percent_ticks
from bench.reports.formatting import Value


@figure(order=30)
def cost_against_robustness(board: Board, tables: Tables) -> Figure | None:
    """Draw training cost against the ranking column, with intervals and the Pareto front."""
    measured = [(r, r.value(board.ranking_column)) for r in plot_data.drawn(board) if r.train_seconds is not None]
    rows, robust = [r for r, v in measured if v is not None], [v for _, v in measured if v is not None]
    if len(rows) < 2:
        return None
    relative = all(r.train_cost is not None for r in rows)
    costs = [float((r.train_cost if relative else r.train_seconds) or 0.0) for r in rows]
    points = [(cost, 100 * value) for cost, value in zip(costs, robust, strict=True)]
    best = front(points)
    return Figure(
        name="cost",
        title="What robustness costs in training",
        caption=f"Accuracy under {plot_data.title(board)} against training cost; whiskers are 95 % intervals. The grey "
        "steps are the Pareto front: nothing left of it or level with it is more robust.",
        alt=f"On the front, by rising cost: {formatting.listing([rows[i].defense for i in best])}.",
        panels=(Panel("", _drawing(board, rows, points, best, relative)),),
        legend="narrow",
        wide=True,
        header=("Defense", "Cost", "Accuracy, %", "On the front"),
        numbers=tuple(
            (Value(r.defense), Value(c, "ratio"), Value(v, "percent", r.n), Value("yes" if i in best else "no"))
            for i, (r, c, v) in enumerate(zip(rows, costs, robust, strict=True))
        ),
    )


def _drawing(board: Board, rows: list[Row], points: list[tuple[float, float]], best: list[int], relative: bool) -> str:
    """Draw the points (cost, per cent) with whiskers, names, and the front as steps."""
    sheet, costs = Sheet(board, 620, 400, (46, 14, 44, 8)), [cost for cost, _ in points]
    sheet.axes.step(
        [points[i][0] for i in best] + [max(costs) * 1.3],
        [points[i][1] for i in best] + [points[best[-1]][1]],
        where="post",
        color=svg.STRONG,
        lw=1.2,
        zorder=1,
    )
    for row, (x, y) in zip(rows, points, strict=True):
        cell, look = row.cells[board.ranking], sheet.looks[row.defense]
        if cell.low is not None and cell.high is not None:
            bar = sheet.axes.plot([x, x], [100 * cell.low, 100 * cell.high], color=look.colour, lw=1.4, alpha=0.5)[0]
            sheet.mark(bar, row)
        sheet.line(row, [x], [y], markersize=8, ls="none")
    sheet.axes.set_xscale("log")
    unit = "Training cost, times that of the standard defense" if relative else "Training time of one model, s"
    low, high = min(costs) / 1.25, max(costs) * 1.6
    sheet.axes.set(xlabel=f"{unit} (log scale)", xlim=(low, high))
    log_ticks(sheet.axes, "x", low, high, "{:g}×" if relative else "{:g}")
    percent_ticks(sheet.axes)
    sheet.label_points([formatting.short(row.defense) for row in rows], points, rows)
    return sheet.finish("cost")


def front(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto front, by rising first coordinate: no other costs as little and reaches more.

    Args:
        points: (cost, reached) each.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, kept = -np.inf, list[int]()
    for i in order:
        if points[i][1] > best:
            best, kept = points[i][1], [*kept, i]
    return kept
