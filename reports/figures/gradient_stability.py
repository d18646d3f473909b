"""Relative change of the gradient against the radius of the noise (the paper's Figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.core.stats.order import nearest_quantiles
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, families, with_role
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.figure import Figure, Key, Panel, Tables, figure
from bench.reports.figures.sheet import PANEL, Sheet, slug
from bench.reports.figures.ticks import log_ticks
from bench.reports.formatting import Value

CEILING = 1e2  # of the vertical axis: beyond it a bound says nothing
Family = tuple[BoardColumn, ...]


@dataclass(frozen=True)
class LineStyle:
    """How the curve of one kind is drawn: its words, its dash, whether in the defense's colour."""

    words: str
    dash: tuple[float, ...]
    own: bool


STYLES = {
    "": LineStyle("measured, random direction", (), True),
    "worst": LineStyle("measured, worst direction", (4, 1.6), True),
    "approximation": LineStyle("quadratic approximation", (1.2, 1.6), False),
    "estimate": LineStyle("bound, estimated from these radii", (5, 1.6, 1.2, 1.6), False),
    "bound": LineStyle("bound", (5, 1.6, 1.2, 1.6), False),
}


def line_style(kind: str) -> LineStyle:
    """Return how a kind of curve is drawn.

    Args:
        kind: "" for the quantity itself, else what the companion column is to it.
    """
    return STYLES.get(kind, LineStyle(formatting.label(kind), (2, 2), False))


@dataclass(frozen=True)
class Curve:
    """One per-example quantity over radii: x (m,), median and quartiles over images and seeds (m,)."""

    kind: str
    x: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


@figure(order=40)
def gradient_stability(board: Board, tables: Tables) -> Figure | None:
    """Draw the relative gradient change over radii beside approximation and bound, one panel per defense (Figure 2)."""
    family = next(iter(families(with_role(board.columns, "stability"))), None)
    if family is None:
        return None
    rows = plot_data.drawn(board)
    data = {row.defense: curves(board, tables[row.defense], family) for row in rows}
    measured = [v for found in data.values() for c in found if not c.kind for v in c.low if v > 0]
    if not measured:
        return None
    highest = max(v for found in data.values() for c in found for v in c.middle if np.isfinite(v))
    ends = 10 ** np.floor(np.log10(min(measured))), min(CEILING, 10 ** np.ceil(np.log10(highest)))
    radii = [c.level or 0.0 for c in family]
    beyond = f" Curves above {CEILING:g} leave the frame." if highest > CEILING else ""
    return Figure(
        name="stability",
        title=finding(rows, family[-1]),
        caption="Relative change of the loss's gradient (vertical) against the radius of the perturbation "
        "(horizontal), both on log scales; medians over images and seeds, the band holds the middle half. Lower is "
        f"more stable; above 1 the old gradient says nothing.{beyond}",
        alt=_alt(rows, family[-1]),
        panels=tuple(_panel(board, row, data[row.defense], radii, ends) for row in rows),
        legend="never",
        folded=True,
        keys=tuple(_key(kind) for kind in companions(board, family)),
        header=("Defense", "Curve", *(f"{family[0].level_name} {r:g}" for r in radii)),
        numbers=tuple(line for row in rows for line in _lines(row, data[row.defense], radii)),
    )


def finding(rows: list[Row], column: BoardColumn) -> str:
    """Return under which defense the gradient turns least at the widest radius, and under which most.

    Args:
        rows: the defenses.
        column: the change of the gradient at that radius.
    """
    known = sorted((v, row.title) for row in rows if (v := row.value(column)) is not None)
    where = f"moved by {column.level:g}"
    if not known:
        return f"How far the gradient turns when the image is {where}"
    least = f"the gradient of {known[0][1]} changes by {formatting.number(100 * known[0][0])}\u00a0%"
    if len(known) == 1:
        return f"When an image is {where}, {least}"
    return (
        f"When an image is {where}, {least}, that of {known[-1][1]} by {formatting.number(100 * known[-1][0])}\u00a0%"
    )


def _panel(board: Board, row: Row, found: list[Curve], radii: list[float], ends: tuple[float, float]) -> Panel:
    """Draw the curves of one defense."""
    (floor, top), sheet = ends, Sheet(board, PANEL, (46, 12, 24, 8))
    for curve in found:
        style = line_style(curve.kind)
        colour = sheet.looks[row.defense].colour if style.own else svg.FAINT
        low, middle, high = (np.clip(v, floor / 10, top * 10) for v in (curve.low, curve.middle, curve.high))
        if not curve.kind:
            sheet.axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, lw=0)
        extra = {"dashes": style.dash} if style.dash else {}
        sheet.line(row, curve.x, middle, not curve.kind, color=colour, lw=1.8 if style.own else 1.3, **extra)
    left, right = min(radii) / 1.1, max(radii) * 1.1
    sheet.axes.set(xscale="log", yscale="log", ylim=(floor, top), xlim=(left, right))
    log_ticks(sheet.axes, "x", left, right, "{:g}")
    log_ticks(sheet.axes, "y", 2 * floor, top, "{:g}")
    return Panel(row.title, sheet.finish(f"stability-{slug(row.anchor)}"), row.anchor)


def _lines(row: Row, found: list[Curve], radii: list[float]) -> Iterator[tuple[Value, ...]]:
    """Yield the numbers of a defense, one line per curve."""
    for curve in found:
        known = dict(zip(curve.x.tolist(), curve.middle.tolist(), strict=True))
        words = line_style(curve.kind).words
        yield Value(row.title), Value(words), *(Value(known.get(radius), "number") for radius in radii)


def companions(board: Board, family: Family) -> dict[str, dict[float, str]]:
    """Return the per-example columns of a family and those read beside it: kind to level to name.

    Args:
        board: it says what the columns are.
        family: a quantity at several levels; its own kind is "".
    """
    found = {"": {c.level or 0.0: c.example_column for c in family}}
    levels = {c.example_column: c.level or 0.0 for c in family}
    for name, facts in board.facts.items():
        if facts.companion_of in levels and name in board.examples:
            found.setdefault(facts.companion, {})[levels[facts.companion_of]] = name
    return found


def curves(board: Board, table: pd.DataFrame, family: Family) -> list[Curve]:
    """Return a family's curves of one defense's table, over all of its images and seeds.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
        family: a quantity at several levels.
    """
    found = []
    for kind, names in companions(board, family).items():
        points = [(x, _quartiles(plot_data.numbers(table, n))) for x, n in sorted(names.items()) if n in table]
        known = [(x, q) for x, q in points if q is not None]
        if known:
            q = np.array([q for _, q in known])
            found.append(Curve(kind, np.array([x for x, _ in known]), q[:, 0], q[:, 1], q[:, 2]))
    return found


def _quartiles(v: np.ndarray) -> np.ndarray | None:
    v = v[~np.isnan(v)]
    return nearest_quantiles(v, (0.25, 0.5, 0.75)) if len(v) else None


def _key(kind: str) -> Key:
    style = line_style(kind)
    return Key(style.words, " ".join(f"{1.8 * d:g}" for d in style.dash))


def _alt(rows: list[Row], column: BoardColumn) -> str:
    parts = [f"{r.title} {formatting.number(r.value(column))}" for r in rows]
    return f"Mean relative gradient change at {column.level_name} {column.level:g}: {'; '.join(parts)}."
