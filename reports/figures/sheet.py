"""A sheet that becomes a themed SVG: one axes, drawn on in the defenses' colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import matplotlib
import numpy as np

matplotlib.use("svg")

from matplotlib.figure import Figure as Canvas

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import drawing, plot_data, svg
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.labels import Box, place, spread, within
from bench.reports.figures.palette import styles

# Sizes in CSS pixels. The page shows a drawing at this size, smaller only where there is no room: text is one size.
WIDE: Final = (700, 400)
NARROW: Final = (350, 330)
PANEL: Final = (290, 226)
NAME: Final = 11.5  # size of the letters of a label
LETTER: Final = 6.8  # mean width of a letter of a label
LEADER: Final = 24  # between the axes and the names at the ends of curves
NEAR: Final = 12.0  # a name farther from its point gets a line to it

# What `seaborn.axes_style("white")` sets. Importing seaborn loads scipy.stats, a second of every report: the page does
# without it, the files of `report --figures` are drawn in its own.
QUIET: Mapping[str, object] = {
    "xtick.direction": "out",
    "ytick.direction": "out",
    "xtick.color": ".15",
    "ytick.color": ".15",
    "grid.linestyle": "-",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "xtick.top": False,
    "ytick.right": False,
    "axes.spines.bottom": True,
    "xtick.bottom": False,
    "ytick.left": False,
}
RC: Mapping[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "font.size": 12,
    "axes.edgecolor": svg.STRONG,
    "axes.labelcolor": svg.FAINT,
    "text.color": svg.INK,
    "axes.labelsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
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


def style(quiet: Mapping[str, object] = QUIET) -> AbstractContextManager[Any]:
    """Return seaborn's quiet style with ours on top, for the time of a `with` block.

    Args:
        quiet: the style below ours; seaborn's own where it is loaded anyway.
    """
    looks: Any = {**quiet, **RC}
    return matplotlib.rc_context(looks)


class Sheet:
    """One drawing in the making: one axes on `width` × `height` CSS pixels, and the board's styles.

    The margins are given, not computed: panels line up, and matplotlib need not draw everything twice.

    Args:
        board: it gives the defenses their colours.
        size: width and height, in CSS pixels.
        margins: left, right, bottom, top, in pixels.

    Attributes:
        looks: defense to its style.
        axes: to draw on.
        canvas: the figure that holds them.
    """

    def __init__(
        self, board: Board, size: tuple[float, float], margins: tuple[float, float, float, float] = (46, 10, 42, 8)
    ) -> None:
        self.looks = styles(plot_data.names(board))
        width, height = size
        self.canvas = Canvas(figsize=(width / 72, height / 72), dpi=72)  # a point is a pixel
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

    def label_ends(self, rows: list[Row], ends: dict[str, tuple[float, float]], gap: float) -> None:
        """Write the names right of the axes in the order of the curves' ends, each with a line from its curve's end.

        Args:
            rows: the defenses.
            ends: defense to the end of its curve, (x, y); those without are left out.
            gap: least distance of two names, in units of the axis.
        """
        order = sorted((r for r in rows if r.defense in ends), key=lambda r: ends[r.defense][1])
        low, high = self.axes.get_ylim()
        heights = within(spread([ends[r.defense][1] for r in order], gap), gap, low, high)
        left, right = self.axes.get_xlim()
        x = right + LEADER * (right - left) / (self.axes.bbox.width or 1)
        for row, y in zip(order, heights, strict=True):
            self._name(formatting.short(row.defense), row, ends[row.defense], (x, y))

    def label_points(self, rows: list[Row], points: list[tuple[float, float]], taken: list[Box]) -> None:
        """Write each name beside its point where it covers neither mark nor whisker nor name, with a line if far.

        Args:
            rows: the defenses.
            points: (x, y) each, in units of the axes.
            taken: boxes that no name should cover, in pixels.
        """
        names = [formatting.short(row.defense) for row in rows]
        at = [tuple(map(float, self.axes.transData.transform(point))) for point in points]
        sizes = [(LETTER * len(name) + 2, 14.0) for name in names]
        (left, bottom), (right, top) = self.axes.bbox.get_points().tolist()
        boxes = place([(x, y) for x, y in at], sizes, taken, (left, bottom, right, top))
        back = self.axes.transData.inverted()
        for name, row, point, box in zip(names, rows, points, boxes, strict=True):
            x, y = back.transform((box[0], (box[1] + box[3]) / 2))
            self._name(name, row, point, (float(x), float(y)))

    def _name(self, name: str, row: Row, at: tuple[float, float], where: tuple[float, float]) -> None:
        """Write a name, its left end at `where`, and draw a thin line from it to the point `at` if that is far."""
        look = self.looks[row.defense]
        (x, y), (u, v) = self.axes.transData.transform([at, where])
        width = LETTER * len(name)
        near = np.clip(x, u, u + width), np.clip(y, v - 4, v + 4)
        if float(np.hypot(near[0] - x, near[1] - y)) > NEAR:
            end = self.axes.transData.inverted().transform((near[0] - 2 if near[0] == u else near[0], near[1]))
            style: Any = {"color": look.colour, "lw": 0.8, "alpha": 0.7, "clip_on": False, "zorder": 1.5}
            self.mark(self.axes.plot([at[0], end[0]], [at[1], end[1]], **style)[0], row)
        text = self.axes.text(*where, name, va="center", color=look.colour, fontsize=NAME, clip_on=False)
        self.mark(text, row)

    def finish(self, name: str) -> Drawing:
        """Return the drawing, its SVG fit for the page.

        Args:
            name: of the drawing, unique in the page; [a-z0-9-]+.
        """
        colours = {look.colour: f"var(--c{look.slot})" for look in self.looks.values()}
        return drawing.drawing(self.canvas, name, colours)


def room(rows: list[Row]) -> float:
    """Return the pixels that the longest name of some rows needs beside the axes, with its line."""
    return LEADER + 4 + LETTER * max(len(formatting.short(row.defense)) for row in rows)


def slug(text: str) -> str:
    """Return a text as a part of an id: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
