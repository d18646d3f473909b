"""The whole curve of robust accuracy: from the smallest change known to break each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.core.records import NORM_SYMBOLS, Column
from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.figures.accuracy_curve import DIRECT
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import NARROW, WIDE, Sheet, room
from bench.reports.figures.ticks import percent_ticks
from bench.reports.formatting import Value

POINTS: Final = 241  # of a curve
REACH: Final = 0.9  # the axis ends where this share of the images of every row is broken


@dataclass(frozen=True)
class Sizes:
    """The smallest change known to break each image of one row, over all its seeds: 0 misclassified, infinite unbroken.

    Attributes:
        sizes: (n,), ascending.
        images: distinct images behind them.
    """

    sizes: np.ndarray
    images: int

    def unbroken(self, eps: float) -> float:
        """Return the share of images that nothing known breaks within eps."""
        return float((self.sizes > eps).mean())

    @property
    def median(self) -> float | None:
        """The change within which half of the images are broken; None where more than half are unbroken."""
        middle = float(self.sizes[(len(self.sizes) - 1) // 2])
        return middle if np.isfinite(middle) else None


@figure(order=22)
def robust_accuracy_at_every_budget(board: Board, tables: Tables) -> Figure | None:
    """Draw the share of images that no known change up to ε breaks, for every ε; None without a minimal-norm attack."""
    threat = board.threat
    rows, found = plot_data.drawn(board), dict[str, Sizes]()
    for row in rows:
        sizes = smallest_changes(board, tables[row.defense])
        if sizes is not None:
            found[row.defense] = sizes
    if not found or threat is None:
        return None
    rows, symbol = [row for row in rows if row.defense in found], NORM_SYMBOLS.get(threat.norm, threat.norm)
    end = _end(found, threat.eps)
    wide, narrow = (_drawing(board, rows, found, end, symbol, narrow) for narrow in (False, True))
    images = formatting.plural(max(one.images for one in found.values()), "test image")
    return Figure(
        name="breaking-curve",
        title=finding(rows, found),
        caption=f"Share of {images} that no change of size up to ε breaks ({symbol}), for every ε: from the smallest "
        "change that any attack of the board, at any of its budgets, was seen to break the image with; a minimal-norm "
        "attack searches for it. Each curve is an upper bound on the robust accuracy. Means over seeds.",
        alt="Curves that fall from the clean accuracy: " + "; ".join(_words(row, found) for row in rows) + ".",
        panels=(Panel(f"Smallest change known to break an image, {symbol}", wide, narrow=narrow),),
        legend="narrow" if len(rows) <= DIRECT else "always",
        wide=True,
        header=("Defense", "Half of the images break within ε =", f"Unbroken at ε = {threat.eps:g}, %"),
        numbers=tuple(
            (
                Value(row.title),
                Value(found[row.defense].median, "number"),
                Value(found[row.defense].unbroken(threat.eps), "percent", found[row.defense].images),
            )
            for row in rows
        ),
    )


def smallest_changes(board: Board, table: pd.DataFrame) -> Sizes | None:
    """Return the smallest change known to break each image on which a minimal-norm attack was run; None without one.

    Args:
        board: it says what the columns are.
        table: per-example table of one row.
    """
    threat = board.threat
    facts = {n: c for n, c in board.facts.items() if threat is not None and c.params.get("norm") == threat.norm}
    searched = [name for name, column in facts.items() if column.role == "breaking" and "attack" in column.params]
    measured = np.zeros(len(table), dtype=bool)
    for name in searched:
        verdict = _verdict(facts, facts[name], board.origins.get(name, ""), board)
        if verdict in table:
            measured |= ~np.isnan(plot_data.numbers(table, verdict))
    if not measured.any():
        return None
    smallest = np.full(len(table), np.inf)
    for name, column in facts.items():
        if column.role in ("breaking", "distance") and name in table:
            smallest = np.fmin(smallest, plot_data.numbers(table, name))
    return Sizes(np.sort(smallest[measured]), int(table["index"][measured].nunique()))


def _verdict(facts: dict[str, Column], search: Column, origin: str, board: Board) -> str:
    """Return the column that says of every image whether the attack of a search broke it; "" without one."""
    same = (n for n, c in facts.items() if c.role == "robust" and board.origins.get(n) == origin)
    return next((n for n in same if facts[n].params.get("eps") == search.params.get("eps")), "")


def finding(rows: list[Row], found: dict[str, Sizes]) -> str:
    """Return within which change half of the images break, from the least to the most robust row.

    Args:
        rows: those drawn.
        found: defense to its smallest changes.
    """
    known = sorted((m, row.title) for row in rows if (m := found[row.defense].median) is not None)
    if not known:
        return "More than half of the images of every defense are unbroken"
    (low, first), (high, last) = known[0], known[-1]
    if len(known) == 1:
        return f"Half of the images of {first} break within ε\u00a0=\u00a0{formatting.number(low)}"
    return (
        f"Half of the images break within ε\u00a0=\u00a0{formatting.number(low)} ({first}) to "
        f"{formatting.number(high)} ({last})"
    )


def _words(row: Row, found: dict[str, Sizes]) -> str:
    """Return a row's curve in words."""
    median = found[row.defense].median
    return f"{row.title} {'beyond the axis' if median is None else f'half at {formatting.number(median)}'}"


def _end(found: dict[str, Sizes], eps: float) -> float:
    """Return where the axis of ε ends: beyond the threat, where most images of every row are broken."""
    reached = [float(np.quantile(s, REACH)) for one in found.values() if len(s := one.sizes[np.isfinite(one.sizes)])]
    return 1.04 * max([eps, *reached])


def _drawing(board: Board, rows: list[Row], found: dict[str, Sizes], end: float, symbol: str, narrow: bool) -> Drawing:
    """Draw the curves, and the threat as a vertical line."""
    direct = len(rows) <= DIRECT and not narrow
    sheet = Sheet(board, NARROW if narrow else WIDE, (46, room(rows) if direct else 10, 46, 8))
    at, ends = np.linspace(0, end, POINTS), dict[str, tuple[float, float]]()
    for row in rows:
        sizes = found[row.defense].sizes
        left = 100 * (1 - np.searchsorted(sizes, at, side="right") / len(sizes))
        sheet.line(row, at, left, marker=False)
        ends[row.defense] = (end, float(left[-1]))
    if board.threat is not None:
        sheet.axes.axvline(board.threat.eps, color="0.5", lw=0.8)
    sheet.axes.set(xlabel=f"Size of the change ε, {symbol}", ylabel="", xlim=(0, end), ylim=(-2, 101))
    percent_ticks(sheet.axes)
    if direct:
        sheet.label_ends(rows, ends, gap=4.4)
    return sheet.finish("breaking-curve-narrow" if narrow else "breaking-curve")
