"""Drawing tools: a sheet that becomes a themed SVG, ticks in plain numbers, labels that do not collide."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.palette import styles

RC: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "bench", "text.parse_math": False, "font.size": 11,
    "axes.edgecolor": svg.STRONG, "axes.labelcolor": svg.FAINT, "text.color": svg.INK, "axes.labelsize": 11,
    "xtick.labelcolor": svg.FAINT, "ytick.labelcolor": svg.FAINT, "grid.color": svg.GRID, "grid.linewidth": 0.8,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "axes.linewidth": 0.8,
    "axes.grid": True, "axes.axisbelow": True, "lines.linewidth": 1.8, "lines.markersize": 5.5,
    "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "xtick.major.pad": 6, "ytick.major.pad": 5, "axes.labelpad": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
}  # fmt: skip


def style() -> AbstractContextManager[Any]:
    """Return seaborn's quiet style with ours on top, for the time of a `with` block."""
    looks: Any = {**sns.axes_style("white"), **RC}
    return matplotlib.rc_context(looks)


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure; `series` is the anchor of the defense that it belongs to, "" for all."""

    title: str
    svg: str
    series: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: its id in the page, [a-z0-9-]+.
        title: what it says, as a headline.
        caption: how to read it, with n and what the bands are.
        alt: the text for those who do not see it.
        panels: its drawings.
        legend: when the colours need the legend; "narrow": on small screens, where direct labels scroll off.
        wide: whether each panel takes the whole width.
        keys: (words, dash) of the kinds of line.
        header: headings of the table of its numbers.
        numbers: the table's rows.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[Panel, ...]
    legend: Literal["always", "narrow", "never"] = "always"
    wide: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    numbers: tuple[tuple[str, ...], ...] = ()


class Sheet:
    """One SVG in the making: one axes on `width` × `height` CSS pixels, and the board's styles.

    The margins (left, right, bottom, top, in pixels) are given, not computed: panels line up, and matplotlib need not
    draw everything twice.
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
        """Plot one defense's series in its colour, marker and dash."""
        look = self.looks[row.defense]
        options = {"color": look.colour, "marker": look.marker if marker else "", **options}
        (line,) = self.axes.plot(x, y, markeredgecolor=svg.PAPER, markeredgewidth=0.7, **options)
        if look.dash and "dashes" not in options:
            line.set_dashes(look.dash)
        self.mark(line, row)

    def mark(self, artist: Any, row: Row) -> None:
        """Let the page find the series of a defense, to highlight it."""
        artist.set_gid(f"{svg.GID}{row.anchor}")

    def label_ends(self, rows: list[Row], ends: dict[str, float], x: float, gap: float) -> None:
        """Write the names at the right of the curves, pushed apart so that none covers another."""
        order = sorted((r for r in rows if r.defense in ends), key=lambda r: ends[r.defense])
        low, high = self.axes.get_ylim()
        places = within(spread([ends[r.defense] for r in order], gap), gap, low, high)
        for row, y in zip(order, places, strict=True):
            look = self.looks[row.defense]
            text = self.axes.annotate(
                formatting.short(row.defense), (x, y), xytext=(8, 0), textcoords="offset points", va="center",
                color=look.colour, fontsize=10.5, annotation_clip=False,
            )  # fmt: skip
            self.mark(text, row)

    def label_points(self, names: list[str], points: list[tuple[float, float]], rows: list[Row]) -> None:
        """Write each name right of its point, moved up where it would cover a label that stands already."""
        placed: list[tuple[float, float, float]] = []
        for k in sorted(range(len(points)), key=lambda k: points[k][1]):
            x, y = self.axes.transData.transform(points[k])
            width, up = 6.6 * len(names[k]), 5.0
            while any(abs(y + up - b) < 13 and x < right + 10 and a < x + width + 10 for a, b, right in placed):
                up += 1.0
            placed.append((x, y + up, x + width))
            text = self.axes.annotate(
                names[k], points[k], xytext=(9, up), textcoords="offset points", fontsize=10.5,
                color=self.looks[rows[k].defense].colour,
            )  # fmt: skip
            self.mark(text, rows[k])

    def finish(self, name: str) -> str:
        """Return the SVG, fit for the page, and free the canvas."""
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        self.canvas.savefig(buffer, format="svg", metadata=nothing)
        plt.close(self.canvas)
        colours = {look.colour: f"var(--c{look.slot})" for look in self.looks.values()}
        return svg.embed(buffer.getvalue(), name, colours)


def ticks(axes: Axes, at: list[float], form: str, which: str, least: float = 0.0) -> None:
    """Label exactly these places, leaving out labels nearer than `least` to the one before."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    kept: list[float] = []
    for place in at:
        if not kept or place - kept[-1] >= least:
            kept.append(place)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_major_formatter(FuncFormatter(lambda v, _: form.format(v)))


def log_ticks(axes: Axes, which: str, low: float, high: float, form: str) -> None:
    """Label powers of ten in plain numbers, or finer steps where these are fewer than three; no two labels touch."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    figure: Any = axes.get_figure(root=True)
    length = 72 * figure.get_size_inches()[0] * axes.get_position().width

    def apart(a: float, b: float) -> bool:
        """Tell whether two labels keep clear of each other: by their letters side by side, by a share on top."""
        least = (3.5 * len(form.format(a) + form.format(b)) + 8) / length if which == "x" else 0.075
        return bool(np.log10(b / a) >= least * np.log10(high / low))

    kept: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        at = [float(f"{s}e{e}") for e in range(first, last + 1) for s in steps]
        kept = _apart([v for v in at if low <= v <= high], apart)
        if len(kept) >= 3:
            break
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: form.format(v)))


def _apart(at: list[float], apart: Callable[[float, float], bool]) -> list[float]:
    """Leave out places that are not apart from the one before."""
    kept: list[float] = []
    for place in at:
        if not kept or apart(kept[-1], place):
            kept.append(place)
    return kept


def spread(places: list[float], gap: float) -> list[float]:
    """Move rising places apart until neighbours are `gap` apart, keeping each group centred where it was."""
    groups = [[p] for p in places]
    centres = list(places)
    k = 0
    while k + 1 < len(groups):
        a, b = groups[k], groups[k + 1]
        if centres[k] + gap * (len(a) - 1) / 2 + gap > centres[k + 1] - gap * (len(b) - 1) / 2:
            groups[k : k + 2] = [a + b]
            centres[k : k + 2] = [float(np.mean(a + b))]
            k = max(0, k - 1)
        else:
            k += 1
    return [c + gap * (i - (len(g) - 1) / 2) for g, c in zip(groups, centres, strict=True) for i in range(len(g))]


def within(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move rising places into [low, high] with `gap` between neighbours; too many of them go on below it."""
    kept: list[float] = []
    for place in places:
        kept.append(max(place, kept[-1] + gap if kept else low))
    for i in range(len(kept) - 1, -1, -1):
        kept[i] = min(kept[i], kept[i + 1] - gap if i + 1 < len(kept) else high)
    return kept


def room(rows: list[Row]) -> float:
    """Return the pixels that the longest name of the rows needs beside the axes."""
    return 14 + 6.3 * max(len(formatting.short(row.defense)) for row in rows)


def slug(text: str) -> str:
    """Return a text as a part of an id: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
