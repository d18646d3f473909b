"""Does flatness explain robustness: rank correlations with their intervals."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import FixedLocator

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures import plot_data, svg
from bench.reports.figures.sheet import Figure, Panel, Sheet, room, slug, ticks


def rank_correlation(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw the rank correlations of flatness with robustness, a dot per defense, one panel per flatness."""
    found = plot_data.correlations(board, tables)
    if not found:
        return None
    panels, rows = [], plot_data.drawn(board)
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
        sheet.axes.set_yticklabels([formatting.short(r.defense) for r in rows])
        sheet.axes.grid(visible=False, axis="y")
        panels.append(Panel(formatting.label(column), sheet.finish(f"correlation-{slug(column)}")))
    strongest = max(found, key=lambda c: abs(c.rho))
    return Figure(
        name="correlation",
        title="Does flatness explain robustness here?",
        caption="Spearman's rank correlation over the correctly classified images of each defense, mean over seeds. "
        "Filled: with the smallest budget that broke the image; hollow: with the clean margin. Far left: the flatter "
        "the loss around an image, the harder it was to break; 0: flatness tells nothing.",
        alt=f"Strongest: {strongest.flatness} with {strongest.robustness} of {strongest.defense}, "
        f"{formatting.correlation(strongest.rho)}.",
        panels=tuple(panels),
        legend="never",
        header=("Defense", "Flatness", "Robustness", "ρ", "n"),
        numbers=tuple(
            (c.defense, formatting.label(c.flatness), c.robustness, formatting.correlation(c.rho), str(c.n))
            for c in found
        ),
    )
