"""Training cost against robust accuracy, with the Pareto front."""

from __future__ import annotations

from matplotlib.ticker import FuncFormatter

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures import plot_data, svg
from bench.reports.figures.sheet import Figure, Panel, Sheet, log_ticks


def cost_against_robustness(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw training cost against the ranking column, with intervals and the Pareto front."""
    rows = [
        r
        for r in plot_data.drawn(board)
        if r.train_seconds is not None and plot_data.value(r, board.ranking) is not None
    ]
    relative = all(r.train_cost is not None for r in rows)
    if len(rows) < 2:
        return None
    sheet = Sheet(board, 620, 400, (46, 14, 44, 8))
    costs = [float((r.train_cost if relative else r.train_seconds) or 0.0) for r in rows]
    points = [(c, 100 * (plot_data.value(r, board.ranking) or 0.0)) for r, c in zip(rows, costs, strict=True)]
    best = plot_data.front(points)
    sheet.axes.step(
        [points[i][0] for i in best] + [max(costs) * 1.3], [points[i][1] for i in best] + [points[best[-1]][1]],
        where="post", color=svg.STRONG, lw=1.2, zorder=1,
    )  # fmt: skip
    for row, (x, y) in zip(rows, points, strict=True):
        cell, look = row.cells[board.ranking], sheet.looks[row.defense]
        if cell.low is not None and cell.high is not None:
            bar = sheet.axes.plot([x, x], [100 * cell.low, 100 * cell.high], color=look.colour, lw=1.4, alpha=0.5)[0]
            sheet.mark(bar, row)
        sheet.line(row, [x], [y], markersize=8, ls="none")
    sheet.axes.set_xscale("log")
    unit = "Training cost, times that of the standard defense" if relative else "Training time of one model, s"
    sheet.axes.set(xlabel=f"{unit} (log scale)", xlim=(min(costs) / 1.25, max(costs) * 1.6))
    log_ticks(sheet.axes, "x", min(costs) / 1.25, max(costs) * 1.6, "{:g}×" if relative else "{:g}")
    sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
    sheet.label_points([formatting.short(row.defense) for row in rows], points, rows)
    named = formatting.listing([rows[i].defense for i in best])
    return Figure(
        name="cost",
        title="What robustness costs in training",
        caption=f"Accuracy under {plot_data.title(board)} against training cost; whiskers are 95 % intervals. The grey "
        "steps are the Pareto front: nothing left of it or level with it is more robust.",
        alt=f"On the front, from cheap to dear: {named}.",
        panels=(Panel("", sheet.finish("cost")),),
        legend="narrow",
        wide=True,
        header=("Defense", "Cost", "Accuracy, %", "On the front"),
        numbers=tuple(
            (
                r.defense,
                f"{c:.2f}",
                formatting.percent(plot_data.value(r, board.ranking), r.n),
                "yes" if i in best else "no",
            )
            for i, (r, c) in enumerate(zip(rows, costs, strict=True))
        ),
    )
