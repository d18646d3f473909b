"""Accuracy under attack against the budget, with Wilson intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, families
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.figures import plot_data
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.figure import Figure, Key, Panel, Tables, figure
from bench.reports.figures.level_axis import LevelAxis, level_axis
from bench.reports.figures.sheet import NARROW, WIDE, Sheet, room, slug
from bench.reports.figures.ticks import percent_ticks
from bench.reports.formatting import Entry, Value

DIRECT: Final = 10  # defenses up to which curves are labelled at their ends
ASIDE: Final = 0.05  # usual steps between the marks of two defenses at one budget
DOTTED: Final = (1.0, 2.4)
CLOSE: Final = 0.5  # share of the whole range below which the small budgets are drawn enlarged as well
Family = tuple[BoardColumn, ...]
AXES = {"eps": "Perturbation budget ε (ε = 0: clean images)"}


@dataclass(frozen=True)
class Point:
    """One point of a curve: where it lies, and the board's number there."""

    level: float
    cell: Cell
    value: float

    @property
    def ends(self) -> tuple[float, float]:
        """Its interval, in per cent; the number itself where it has none."""
        low = self.value if self.cell.low is None else self.cell.low
        high = self.value if self.cell.high is None else self.cell.high
        return 100 * low, 100 * high


def _measured(column: BoardColumn) -> bool:
    """Return whether one evaluation measured a share; what is proved or best known has a table of its own."""
    return column.facts.aggregate == "fraction" and column.facts.role not in {"certified", "best_known"}


@figure(order=20)
def accuracy_against_eps(board: Board, tables: Tables) -> Figure | None:
    """Draw accuracy against the budget with intervals, one panel per quantity that was measured at several."""
    rows, curves = plot_data.drawn(board), families(c for c in board.columns if _measured(c))
    if not curves:
        return None
    ranking = board.ranking_column
    inside = any(ranking is c for family in curves for c in family)
    ring = None if ranking is None or ranking.level is None or inside else ranking
    levels = sorted({0.0} | {c.level or 0.0 for family in curves for c in family})
    shared = {family[0].level_name for family in curves}
    symbol = f"{formatting.level_name(next(iter(shared)))} = " if len(shared) == 1 else "at "
    return Figure(
        name="accuracy-against-eps",
        title=finding(board, curves[0]),
        caption="Share of test images still classified right when each may be moved by up to ε. Means over seeds; "
        "whiskers are 95 % Wilson intervals over test images, the defenses side by side at each budget."
        f"{_rings(board, ring, curves)}{_mixed(board, curves)}",
        alt=_alt(board, curves[0]),
        panels=tuple(panel for family in curves for panel in _panels(board, family, ring)),
        legend="narrow" if len(rows) <= DIRECT else "always",
        wide=True,
        keys=_keys(curves, ring),
        header=("Defense", "Attack", *(f"{symbol}{level:g}, %{_images(board, curves, level)}" for level in levels)),
        numbers=tuple(_line(board, row, family, levels) for family in curves for row in rows),
    )


def finding(board: Board, family: Family) -> str:
    """Return what a curve says: who keeps most at the largest budget, and whether the smallest tells them apart.

    Args:
        board: what was measured.
        family: a quantity at several budgets.
    """
    first, last, symbol = family[0], family[-1], formatting.level_name(family[0].level_name)
    known, where = _at(board, last), f"{symbol}\u00a0=\u00a0{last.level:g}"
    if not known:
        return f"{last.heading} was not measured up to {where}"
    shown = [f"{formatting.percent(v, row.cells[last.name].n)}\u00a0%" for v, row in known]
    names = [row.title for _, row in known]
    if known[0][0] == known[-1][0]:
        return f"At {where}, {names[0] if len(known) == 1 else 'every defense'} keeps {shown[0]}"
    always = all(_leads(_at(board, column), known[0][1]) for column in family)
    lead = f"{names[0]} keeps {shown[0]}{' and leads at every smaller budget' if always else ''}"
    small = [100 * v for v, _ in _at(board, first)]
    spread = (
        f"; at {symbol}\u00a0=\u00a0{first.level:g} all lie within {small[0] - small[-1]:.1f} points" if small else ""
    )
    return f"At {where}, {lead}, {names[-1]} {shown[-1]}{spread}"


def _leads(found: list[tuple[float, Row]], row: Row) -> bool:
    """Tell whether a row is above all others, none of them level with it."""
    return len(found) > 1 and found[0][1] is row and found[0][0] > found[1][0]


def _at(board: Board, column: BoardColumn) -> list[tuple[float, Row]]:
    """Return the values of a column with their rows, the largest first."""
    found = [(v, r) for r in plot_data.told(board) if (v := r.value(column)) is not None]
    return sorted(found, key=lambda pair: -pair[0])


def _curve(board: Board, row: Row, family: Family) -> list[Point]:
    """Return the points of one defense that were measured, clean accuracy first."""
    clean = board.first("clean")
    columns = [(0.0, clean), *((c.level or 0.0, c) for c in family)]
    return [
        Point(level, row.cells[column.name], value)
        for level, column in columns
        if column is not None and (value := row.value(column)) is not None
    ]


def _panels(board: Board, family: Family, ring: BoardColumn | None) -> list[Panel]:
    """Draw the curves of one family; those before an unmeasured span enlarged as well, where they lie close."""
    curves = {row.defense: _curve(board, row, family) for row in plot_data.drawn(board)}
    axis = _axis(family, ring)
    panels = [_panel(board, family, curves, axis, ring, "")]
    if axis.unmeasured:
        end = axis.unmeasured[0][0]
        small = {name: [p for p in points if p.level <= end] for name, points in curves.items()}
        if _height(small) < CLOSE * _height(curves):
            part = level_axis([level for level in axis.places if level <= end])
            what = f"The same up to {formatting.level_name(family[0].level_name)}\u00a0=\u00a0{end:g}, enlarged"
            panels.append(replace(_panel(board, family, small, part, None, "small"), title=what))
    return panels


def _axis(family: Family, ring: BoardColumn | None) -> LevelAxis:
    """Return the axis of a family's budgets, clean images first, and of the ranking column's."""
    levels = {0.0} | {c.level or 0.0 for c in family} | ({ring.level or 0.0} if ring is not None else set())
    return level_axis(sorted(levels))


def _height(curves: dict[str, list[Point]]) -> float:
    """Return the range of all intervals, in points."""
    ends = [end for points in curves.values() for point in points for end in point.ends]
    return max(ends, default=0.0) - min(ends, default=0.0)


def _panel(
    board: Board,
    family: Family,
    curves: dict[str, list[Point]],
    axis: LevelAxis,
    ring: BoardColumn | None,
    suffix: str,
) -> Panel:
    name = "-".join(filter(None, (f"accuracy-{slug(_id(family))}", suffix)))
    wide, narrow = (_drawing(board, family, curves, axis, ring, name, narrow) for narrow in (False, True))
    return Panel(f"Under {family[0].heading}", wide, narrow=narrow)


def _drawing(
    board: Board,
    family: Family,
    curves: dict[str, list[Point]],
    axis: LevelAxis,
    ring: BoardColumn | None,
    name: str,
    narrow: bool,
) -> Drawing:
    """Draw curves, dotted where nothing was measured, and where the ranking column lies if it is in no family."""
    rows = plot_data.drawn(board)
    direct = len(rows) <= DIRECT and not narrow
    sheet = Sheet(board, NARROW if narrow else WIDE, (46, room(rows) if direct else 10, 46, 8))
    ends = dict[str, tuple[float, float]]()
    aside = min(ASIDE, 0.5 / len(rows))
    for k, row in enumerate(rows):
        shift = aside * (k - (len(rows) - 1) / 2)
        at = {p.level: (axis.places[p.level] + shift, 100 * p.value) for p in curves[row.defense]}
        _curve_of(sheet, row, curves[row.defense], axis, at)
        if at:
            ends[row.defense] = list(at.values())[-1]
        if ring is not None and (reached := row.value(ring)) is not None:
            options: Any = {"mfc": "none", "mew": 1.4, "ms": 8, "marker": "o", "clip_on": False, "ls": "none"}
            place, colour = axis.places[ring.level or 0.0] + shift, sheet.looks[row.defense].colour
            sheet.mark(sheet.axes.plot([place], [100 * reached], color=colour, **options)[0], row)
    found = [end for points in curves.values() for p in points for end in p.ends]
    low, high = min(found, default=0.0), max(found, default=100.0)
    step = 10 if high - low > 25 else 1
    bottom, top = max(-2.0, step * (low // step) - 0.2 * step), 100 + 0.02 * (100 - low)
    words = AXES.get(family[0].level_name, formatting.label(family[0].level_name))
    sheet.axes.set(xlabel=words.partition(" (")[0] if narrow else words, ylabel="", ylim=(bottom, top))
    axis.draw(sheet.axes)
    percent_ticks(sheet.axes)
    sheet.axes.grid(visible=False, axis="x")
    sheet.axes.set_xlim(-0.35, max(axis.places.values()) + 0.35)
    if direct:
        sheet.label_ends(rows, ends, gap=0.043 * (top - bottom))
    return sheet.finish(f"{name}-narrow" if narrow else name)


def _curve_of(
    sheet: Sheet, row: Row, points: list[Point], axis: LevelAxis, at: dict[float, tuple[float, float]]
) -> None:
    """Draw the curve of one defense: whiskers, what was measured, and dots across what was not."""
    xs = [x for p in points for x in (at[p.level][0], at[p.level][0], math.nan)]
    ends = [y for p in points for y in (*p.ends, math.nan)]
    whisker: Any = {"color": sheet.looks[row.defense].colour, "lw": 1.1, "alpha": 0.45}
    sheet.mark(sheet.axes.plot(xs, ends, **whisker)[0], row)
    groups = axis.part([p.level for p in points])
    for group in groups:
        sheet.line(row, [at[level][0] for level in group], [at[level][1] for level in group])
    for before, after in pairwise(groups):
        (x0, y0), (x1, y1) = at[before[-1]], at[after[0]]
        sheet.line(row, [x0, x1], [y0, y1], marker=False, lw=1.3, dashes=DOTTED)


def _keys(curves: list[Family], ring: BoardColumn | None) -> tuple[Key, ...]:
    """Return what dots and rings mean, where there are any."""
    spans = {(family[0].level_name, span): None for family in curves for span in _axis(family, ring).unmeasured}
    dots = " ".join(f"{1.8 * d:g}" for d in DOTTED)
    keys = [
        Key(f"nothing measured between {formatting.level_name(name)} = {a:g} and {b:g}; axis shortened there", dots)
        for name, (a, b) in spans
    ]
    return (*keys, *([Key(plot_data.named(ring), shape="ring")] if ring is not None else []))


def _id(family: Family) -> str:
    """Return what tells a family's drawing from the others'."""
    return " ".join([family[0].evaluation, family[0].heading])


def _line(board: Board, row: Row, family: Family, levels: list[float]) -> tuple[Entry, ...]:
    """Return one line of the table of numbers: a curve's value at every level of any curve."""
    known = {p.level: Value(p.value, "percent", p.cell.n) for p in _curve(board, row, family)}
    return Value(row.title), Value(family[0].heading), *(known.get(e, Value(None, "percent")) for e in levels)


def _rings(board: Board, ring: BoardColumn | None, curves: list[Family]) -> str:
    """Say what the rings are, on how many images, and why one may lie above its curve where these are fewer."""
    if ring is None:
        return ""
    rows = [r for r in plot_data.drawn(board) if ring.name in r.cells]
    n = max((r.cells[ring.name].n for r in rows), default=0)
    columns = [column for family in curves for column in family]
    fewer = any(n < r.cells[column.name].n for r in rows for column in columns if column.name in r.cells)
    above = ", fewer than the curves': a ring may stand above its curve though its attack is stronger"
    return f" Rings: {plot_data.title(board)}, on {formatting.plural(n, 'image')}{above if fewer else ''}."


def _columns(board: Board, curves: list[Family], level: float) -> list[BoardColumn]:
    clean = board.first("clean") if level == 0 else None
    return [*([clean] if clean else []), *(c for family in curves for c in family if (c.level or 0.0) == level)]


def _images(board: Board, curves: list[Family], level: float) -> str:
    """Return the images behind a column of the numbers, where not all columns have the same: ", n = 64"."""
    notes = dict.fromkeys(note for c in _columns(board, curves, level) if (note := board.images_note(c)))
    return "".join(f", {note}" for note in notes)


def _mixed(board: Board, curves: list[Family]) -> str:
    """Say on how many images each curve and the clean accuracy are, where these differ."""
    clean = board.first("clean")
    columns = [*([clean] if clean else []), *(family[0] for family in curves)]
    if len({c.images for c in columns}) < 2:
        return ""
    return f" Images: {', '.join(f'{c.images:,} for {c.heading}' for c in columns)}."


def _alt(board: Board, family: Family) -> str:
    """Say the curves in words: each defense's value at the smallest and the largest level."""
    first, last, symbol = family[0], family[-1], formatting.level_name(family[0].level_name)
    parts = [
        f"{row.title} {formatting.percent(row.value(first), row.n)} % to {formatting.percent(row.value(last), row.n)} %"
        for row in plot_data.drawn(board)
    ]
    return f"Accuracy from {symbol} = {first.level:g} to {symbol} = {last.level:g}: {'; '.join(parts)}."
