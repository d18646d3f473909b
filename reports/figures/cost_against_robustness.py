"""Training cost against robust accuracy, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import Sheet
from bench.reports.figures.ticks import log_ticks, percent_ticks
from bench.reports.formatting import Kind, Value


@dataclass(frozen=True)
class _Measure:
    """A measure of training cost: how it is read off a row, its axis, its ticks and the form of its numbers."""

    of: Callable[[Row], float | None]
    label: str
    tick: str
    form: Kind


# The first that the rows have: what no load can move before what a clock said, ratios before totals.
MEASURES: Final = (
    _Measure(lambda r: r.train_flops, "Counted operations of training, times standard's", "{:g}×", "ratio"),
    _Measure(lambda r: r.train_cost, "Training time, times that of the standard defense", "{:g}×", "ratio"),
    _Measure(lambda r: r.train_operations, "Counted operations of training one model", "{:g}", "number"),
    _Measure(lambda r: r.train_seconds, "Training time of one model, s", "{:g}", "seconds"),
)


@figure(order=30)
def cost_against_robustness(board: Board, tables: Tables) -> Figure | None:
    """Draw training cost against the ranking column, with intervals and the Pareto front."""
    reached = [r for r in plot_data.drawn(board) if r.value(board.ranking_column) is not None]
    measure = next((m for m in MEASURES if any(m.of(r) is not None for r in reached)), None)
    found = [(r, c, r.value(board.ranking_column)) for r in reached if measure and (c := measure.of(r)) is not None]
    if measure is None or len(found) < 2:
        return None
    rows, costs, robust = (
        [r for r, _, _ in found],
        [float(c) for _, c, _ in found],
        [float(v or 0.0) for *_, v in found],
    )
    points = [(cost, 100 * value) for cost, value in zip(costs, robust, strict=True)]
    best, label = front(points), measure.label
    return Figure(
        name="cost",
        title="What robustness costs in training",
        caption=f"Accuracy under {plot_data.title(board)} against {label[0].lower()}{label[1:]}; whiskers are "
        "95 % intervals. The grey "
        "steps are the Pareto front: nothing left of it or level with it is more robust.",
        alt=f"On the front, by rising cost: {formatting.listing([rows[i].defense for i in best])}.",
        panels=(Panel("", _drawing(board, rows, points, best, measure)),),
        legend="narrow",
        wide=True,
        header=("Defense", "Cost", "Accuracy, %", "On the front"),
        numbers=tuple(
            (Value(r.defense), Value(c, measure.form), Value(v, "percent", r.n), Value("yes" if i in best else "no"))
            for i, (r, c, v) in enumerate(zip(rows, costs, robust, strict=True))
        ),
    )


def _drawing(
    board: Board, rows: list[Row], points: list[tuple[float, float]], best: list[int], measure: _Measure
) -> str:
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
    low, high = min(costs) / 1.25, max(costs) * 1.6
    sheet.axes.set(xlabel=f"{measure.label} (log scale)", xlim=(low, high))
    log_ticks(sheet.axes, "x", low, high, measure.tick)
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
