"""The figures of the page, drawn with matplotlib and seaborn as inline SVG: same board, same bytes.

The only module that imports matplotlib. Each drawing function takes the board and returns a Figure, or None where the
columns that it needs were not measured.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from bench.reports import svg, words
from bench.reports.board import Board, BoardColumn, Row
from bench.reports.palette import Style, styles
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter

RC: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "bench", "text.parse_math": False, "font.size": 11,
    "axes.edgecolor": svg.FAINT, "axes.labelcolor": svg.FAINT, "axes.titlecolor": svg.INK, "text.color": svg.INK,
    "xtick.color": svg.FAINT, "ytick.color": svg.FAINT, "grid.color": svg.GRID, "grid.linewidth": 0.8,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 5.5,
    "xtick.major.size": 0, "ytick.major.size": 0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: its id in the page, [a-z0-9-]+.
        title: what it says, as a headline.
        caption: how to read it, with n and what the bands are.
        alt: the text for those who do not see it.
        panels: (title, svg) pairs; the title is "" for a figure of one panel.
        legend: whether the colours need the legend of defenses.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[tuple[str, str], ...]
    legend: bool = True


def draw(board: Board) -> list[Figure]:
    """Return every figure that the board's columns allow, in the page's order."""
    drawings: tuple[Callable[[Board], Figure | None], ...] = (accuracy_against_eps,)
    with matplotlib.rc_context(RC):
        return [figure for drawing in drawings if (figure := drawing(board)) is not None]


def ranked(board: Board) -> list[Row]:
    """Return the rows that are drawn: those with a rank, else all."""
    return [r for r in board.rows if r.rank is not None] or list(board.rows)


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Canvas, Axes]]:
    """Yield a figure of `width` × `height` CSS pixels with one axes, closed at the end."""
    canvas, axes = plt.subplots(figsize=(width / 72, height / 72), layout="constrained")
    try:
        yield canvas, axes
    finally:
        plt.close(canvas)


def _svg(canvas: Canvas, name: str, board: Board) -> str:
    """Write the canvas and make it fit for the page."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    colours = {s.colour: f"var(--c{s.slot})" for s in styles(names(board)).values()}
    return svg.embed(buffer.getvalue(), name, colours)


def names(board: Board) -> list[str]:
    """Return the defenses in the plan's order, which does not change with the results."""
    planned = [r["defense"] for r in board.plan.get("rows", ())]
    return list(dict.fromkeys([*planned, *(r.defense for r in board.rows)]))


def _line(axes: Axes, row: Row, style: Style, x: list[float], y: list[float], **options: Any) -> None:
    """Plot one defense's series in its colour, marker and dash."""
    (line,) = axes.plot(
        x, y, color=style.colour, marker=style.marker, markeredgecolor=svg.PAPER, markeredgewidth=0.7, **options
    )
    if style.dash:
        line.set_dashes(style.dash)
    line.set_gid(f"{svg.GID}{row.anchor}")


def families(board: Board) -> dict[str, list[BoardColumn]]:
    """Return the fractions measured at several budgets: evaluation → its columns by rising budget."""
    found: dict[str, list[BoardColumn]] = {}
    for column in board.columns:
        if column.facts.aggregate == "fraction" and column.number is not None:
            found.setdefault(column.evaluation, []).append(column)
    return {k: sorted(v, key=lambda c: c.number or 0) for k, v in found.items() if len(v) > 1}


def accuracy_against_eps(board: Board) -> Figure | None:
    """Draw robust accuracy against eps with Wilson bands, one panel per attack that ran at several budgets."""
    look, panels = styles(names(board)), []
    for evaluation, columns in families(board).items():
        with _canvas(640, 380) as (canvas, axes):
            for row in ranked(board):
                cells = [(0.0, row.cells.get("clean_accuracy"))] + [(c.number, row.cells.get(c.name)) for c in columns]
                points = [(e, c) for e, c in cells if c is not None and e is not None and not words.missing(c.value)]
                x = [e for e, _ in points]
                style = look[row.defense]
                _line(axes, row, style, x, [100 * (c.value or 0) for _, c in points])
                low = [100 * (c.value if c.low is None else c.low) for _, c in points]  # type: ignore[operator]
                high = [100 * (c.value if c.high is None else c.high) for _, c in points]  # type: ignore[operator]
                band = axes.fill_between(x, low, high, color=style.colour, alpha=0.1, lw=0)
                band.set_gid(f"{svg.GID}{row.anchor}")
            ticks = [0.0, *(c.number for c in columns if c.number is not None)]
            axes.set(xlabel=f"Perturbation budget ε ({words.label(evaluation)})", ylabel="Accuracy, %", ylim=(-2, 102))
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axes.grid(visible=False, axis="x")
            name = f"accuracy-{_slug(evaluation)}"
            panels.append((words.label(evaluation), _svg(canvas, name, board)))
    if not panels:
        return None
    return Figure(
        name="accuracy-against-eps",
        title="Robust accuracy falls as the budget grows",
        caption="Share of test images still classified right when each may be moved by ε. ε = 0 is clean accuracy. "
        "Bands are 95 % Wilson intervals over test images; a line is the mean over seeds.",
        alt=_eps_alt(board),
        panels=tuple(panels),
    )


def _eps_alt(board: Board) -> str:
    """Say the curves in words: each defense's value at the smallest and the largest budget."""
    columns = next(iter(families(board).values()))
    first, last = columns[0], columns[-1]
    parts = [
        f"{row.defense} {words.percent(_value(row, first), row.n)} % to {words.percent(_value(row, last), row.n)} %"
        for row in ranked(board)
    ]
    return f"Accuracy from ε = {first.number:g} to ε = {last.number:g}: {'; '.join(parts)}."


def _value(row: Row, column: BoardColumn) -> float | None:
    cell = row.cells.get(column.name)
    return None if cell is None else cell.value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
