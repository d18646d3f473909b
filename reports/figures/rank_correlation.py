"""Does flatness explain robustness: rank correlations with their intervals."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from matplotlib.ticker import FixedLocator

from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board
from bench.reports.figures import flatness, plot_data, svg
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.flatness import DISTANCE, Correlation
from bench.reports.figures.sheet import PANEL, Sheet, room, slug
from bench.reports.figures.ticks import ticks
from bench.reports.formatting import Value

STRONG: Final = 0.6  # rank correlation from which on the answer is yes
WEAK: Final = 0.3  # from which on it is partly


@figure(order=70)
def rank_correlation(board: Board, tables: Tables) -> Figure | None:
    """Draw the rank correlations of flatness with robustness, a dot per defense, one panel per flatness."""
    found = flatness.correlations(board, tables)
    if not found:
        return None
    strongest = max(found, key=lambda c: abs(c.rho))
    titles = {row.defense: row.title for row in board.rows}
    shown = {row.defense for row in plot_data.drawn(board)}
    return Figure(
        name="correlation",
        title=finding(found),
        caption="Spearman's rank correlation over the correctly classified images of each defense, mean over seeds. "
        "Filled: with the smallest budget that broke the image; hollow: with the clean margin. Far left: the flatter "
        "the loss around an image, the harder it was to break; 0: flatness tells nothing. The title's ρ is the "
        "median over defenses of the "
        f"strongest pair: yes from {STRONG} on, partly from {WEAK} on, without its sign.",
        alt=f"Strongest: {strongest.flatness.name} with {strongest.robustness.name} of {titles[strongest.defense]}, "
        f"{formatting.correlation(strongest.rho)}.",
        panels=tuple(_panel(board, found, column) for column in dict.fromkeys(c.flatness.name for c in found)),
        legend="never",
        folded=True,
        header=("Defense", "Flatness", "Robustness", "ρ", "n"),
        numbers=tuple(
            (
                Value(titles[c.defense]),
                Value(flatness.label(c.flatness)),
                Value(c.robustness.name),
                Value(c.rho, "correlation"),
                Value(c.n, "integer"),
            )
            for c in found
            if c.defense in shown
        ),
    )


def finding(found: list[Correlation]) -> str:
    """Return the answer: yes, partly or no, by the flatness whose median correlation over the defenses is strongest.

    Args:
        found: all correlations.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for c in found:
        groups.setdefault((flatness.label(c.flatness), c.robustness.name), []).append(c.rho)
    (label, robustness), rhos = max(groups.items(), key=lambda item: abs(float(np.median(item[1]))))
    middle = float(np.median(rhos))
    answer = "yes" if abs(middle) >= STRONG else "partly" if abs(middle) >= WEAK else "no"
    rho = f"ρ\u00a0=\u00a0{formatting.correlation(middle)}"
    return f"Does flatness explain which images hold? {answer.capitalize()}: {rho} ({label.lower()}, {robustness})"


def _panel(board: Board, found: list[Correlation], name: str) -> Panel:
    """Draw the correlations of one flatness."""
    rows = plot_data.drawn(board)
    column: BoardColumn = next(c.flatness for c in found if c.flatness.name == name)
    sheet = Sheet(board, (PANEL[0], 30 + 22 * len(rows)), (room(rows), 12, 24, 4))
    for place, row in enumerate(rows):
        colour = sheet.looks[row.defense].colour
        hollow: Any = {"markerfacecolor": svg.PAPER, "markeredgecolor": colour, "markeredgewidth": 1.5}
        for c in (c for c in found if c.defense == row.defense and c.flatness.name == name):
            face = {} if c.robustness == DISTANCE else hollow
            dot = sheet.axes.plot(c.rho, place, marker="o", ms=7, color=colour, **face)[0]
            sheet.mark(dot, row)
    sheet.axes.axvline(0, color=svg.STRONG, lw=1, zorder=0)
    sheet.axes.set(xlim=(-1.05, 1.05), ylim=(len(rows) - 0.5, -0.5))
    ticks(sheet.axes, [-1.0, -0.5, 0.0, 0.5, 1.0], "{:g}", "x")
    sheet.axes.yaxis.set_major_locator(FixedLocator(range(len(rows))))
    sheet.axes.set_yticklabels([formatting.short(r.defense) for r in rows])
    sheet.axes.grid(visible=False, axis="y")
    return Panel(flatness.label(column), sheet.finish(f"correlation-{slug(name)}"))
