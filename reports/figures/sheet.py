"""A sheet that becomes a themed SVG: one axes, drawn on in the defenses' colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import seaborn as sns

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.labels import spread, within
from bench.reports.figures.palette import styles

RC: Mapping[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": svg.STRONG,
    "axes.labelcolor": svg.FAINT,
    "text.color": svg.INK,
    "axes.labelsize": 11,
    "xtick.labelcolor": svg.FAINT,
    "ytick.labelcolor": svg.FAINT,
    "grid.color": svg.GRID,
    "grid.linewidth": 0.8,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 5,
    "axes.labelpad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def style() -> AbstractContextManager[Any]:
    """Return seaborn's quiet style with ours on top, for the time of a `with` block."""
    looks: Any = {**sns.axes_style("white"), **RC}
    return matplotlib.rc_context(looks)


class Sheet:
    """One SVG in the making: one axes on `width` × `height` CSS pixels, and the board's styles.

    The margins are given, not computed: panels line up, and matplotlib need not draw everything twice.

    Args:
        board: it gives the defenses their colours.
        width: in CSS pixels.
        height: likewise.
        margins: left, right, bottom, top, in pixels.

    Attributes:
        looks: defense to its style.
        axes: to draw on.
        canvas: the figure that holds them.
    """

    def __init__(
        self, board: Board, width: float, height: float, margins: tuple[float, float, float, float] = (46, 10, 42, 8)
    ) -> None:
        self.looks = styles(plot_data.names(board))
        self.canvas = plt.figure(figsize=(width / 72, height / 72))
        left, right, bottom, top = margins
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        self.axes = self.canvas.add_axes(box)

    def line(self, row: Row, x: Any, y: Any, marker: bool = True, **options: Any) -> None:
        """Plot one defense's series in its colour, marker and dash.

        Args:
            row: the defense.
            x: coordinates (m,).
            y: likewise.
            marker: whether each point has the defense's mark.
            options: of matplotlib's `plot`; they go before the defense's own.
        """
        look = self.looks[row.defense]
        options = {"color": look.colour, "marker": look.marker if marker else "", **options}
        (line,) = self.axes.plot(x, y, markeredgecolor=svg.PAPER, markeredgewidth=0.7, **options)
        if look.dash and "dashes" not in options:
            line.set_dashes(look.dash)
        self.mark(line, row)

    def mark(self, artist: Any, row: Row) -> None:
        """Let the page find the series of a defense, to highlight it.

        Args:
            artist: what was drawn.
            row: the defense.
        """
        artist.set_gid(f"{svg.GID}{row.anchor}")

    def label_ends(self, rows: list[Row], ends: dict[str, float], x: float, gap: float) -> None:
        """Write the names at the right of the curves, pushed apart so that none covers another.

        Args:
            rows: the defenses.
            ends: defense to the height of its curve's end; those without are left out.
            x: the right end of the curves.
            gap: least distance of two names, in units of the axis.
        """
        order = sorted((r for r in rows if r.defense in ends), key=lambda r: ends[r.defense])
        low, high = self.axes.get_ylim()
        places = within(spread([ends[r.defense] for r in order], gap), gap, low, high)
        for row, y in zip(order, places, strict=True):
            look = self.looks[row.defense]
            text = self.axes.annotate(
                formatting.short(row.defense),
                (x, y),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=look.colour,
                fontsize=10.5,
                annotation_clip=False,
            )
            self.mark(text, row)

    def label_points(self, names: list[str], points: list[tuple[float, float]], rows: list[Row]) -> None:
        """Write each name right of its point, moved up where it would cover another label.

        Args:
            names: a label per point.
            points: (x, y) each.
            rows: the defense of each.
        """
        placed: list[tuple[float, float, float]] = []
        for k in sorted(range(len(points)), key=lambda k: points[k][1]):
            x, y = self.axes.transData.transform(points[k])
            width, up = 6.6 * len(names[k]), 5.0
            while any(abs(y + up - b) < 13 and x < right + 10 and a < x + width + 10 for a, b, right in placed):
                up += 1.0
            placed.append((x, y + up, x + width))
            text = self.axes.annotate(
                names[k],
                points[k],
                xytext=(9, up),
                textcoords="offset points",
                fontsize=10.5,
                color=self.looks[rows[k].defense].colour,
            )
            self.mark(text, rows[k])

    def finish(self, name: str) -> str:
        """Return the SVG, fit for the page, and free the canvas.

        Args:
            name: of the drawing, unique in the page; [a-z0-9-]+.
        """
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        self.canvas.savefig(buffer, format="svg", metadata=nothing)
        plt.close(self.canvas)
        colours = {look.colour: f"var(--c{look.slot})" for look in self.looks.values()}
        return svg.embed(buffer.getvalue(), name, colours)


def room(rows: list[Row]) -> float:
    """Return the pixels that the longest name of some rows needs beside the axes."""
    return 14 + 6.3 * max(len(formatting.short(row.defense)) for row in rows)


def slug(text: str) -> str:
    """Return a text as a part of an id: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
