"""The paper's Figure 1: decision boundaries in the plane, and softplus beside centered softplus."""

from __future__ import annotations

import numpy as np

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures import plot_data, svg
from bench.reports.figures.sheet import Figure, Panel, Sheet, slug


def decision_boundaries(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw the maps of the plane that an evaluation stored, and centered softplus (the paper's Figure 1)."""
    maps = plot_data.grids(board)
    if not maps:
        return None
    panels = []
    for row, seed, grid in maps:
        sheet = Sheet(board, 280, 260, (30, 12, 24, 8))
        p = np.array(grid["probability"], dtype="float64")
        left, right, bottom, top = grid["extent"]
        plane = (np.linspace(left, right, p.shape[1]), np.linspace(bottom, top, p.shape[0]), p)
        colour = sheet.looks[row.defense].colour
        sheet.axes.contourf(*plane, levels=[0.5, 1.01], colors=[colour], alpha=0.1)
        sheet.axes.contour(*plane, levels=[0.1, 0.25, 0.75, 0.9], colors=[svg.STRONG], linewidths=0.9)
        sheet.axes.contour(*plane, levels=[0.5], colors=[colour], linewidths=2.2)
        for label, marker in enumerate("ox"):
            points = plot_data.points(tables[row.defense], seed, label)
            sheet.axes.scatter(points[:, 0], points[:, 1], s=7, marker=marker, color=svg.FAINT, alpha=0.6, lw=0.7)
        sheet.axes.set(xlim=(left, right), ylim=(bottom, top))
        sheet.axes.grid(visible=False)
        panels.append(Panel(f"{row.defense}, seed {seed}", sheet.finish(f"map-{slug(row.anchor)}-{seed}"), row.anchor))
    return Figure(
        name="boundaries",
        title="Where each network draws the line",
        caption="The paper's Figure 1 (a, b): the heavy line is the decision boundary (probability one half), the fine "
        "ones are 10, 25, 75 and 90 %. Last, its Figure 1 (c): softplus grows without limit as its β falls, while "
        "centered softplus tends to x/2.",
        alt=f"Decision boundaries of {formatting.listing(list(dict.fromkeys(r.defense for r, _, _ in maps)))}.",
        panels=(*panels, *(_softplus(board, centered) for centered in (False, True))),
        legend="never",
    )


def _softplus(board: Board, centered: bool) -> Panel:
    """Draw log(1 + e^(βx))/β for several β, from pale (small β) to dark; centered: less its value at 0."""
    sheet = Sheet(board, 280, 220, (30, 44, 24, 8))
    x = np.linspace(-4, 4, 161)
    for k, beta in enumerate((0.3, 0.5, 1.0, 3.0, 20.0)):
        y = np.logaddexp(0, beta * x) / beta - (np.log(2) / beta if centered else 0.0)
        sheet.axes.plot(x, y, color=svg.INK, alpha=(0.3, 0.45, 0.6, 0.8, 1.0)[k], lw=1.5)
        if beta in (0.3, 20.0):
            sheet.axes.annotate(
                f"β = {beta:g}", (4, y[-1]), xytext=(4, -3), textcoords="offset points", fontsize=10, color=svg.INK
            )
    sheet.axes.set(ylim=(-2.5, 6.2), xlim=(-4, 4))
    title = "Centered softplus" if centered else "Softplus"
    return Panel(f"{title} for β = 0.3 … 20", sheet.finish(f"softplus-{'centered' if centered else 'plain'}"))
