"""Accuracy under attack against the budget, with Wilson bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, families
from bench.reports.board.model import Board, Cell, Row
from bench.reports.figures import plot_data
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import Sheet, room, slug
from bench.reports.figures.ticks import percent_ticks, ticks
from bench.reports.formatting import Entry, Value

DIRECT = 10  # defenses up to which curves are labelled at their ends
Family = tuple[BoardColumn, ...]
AXES = {"eps": "Perturbation budget ε (ε = 0: clean images)"}


@dataclass(frozen=True)
class Point:
    """One point of a curve: where it lies, and the board's number there."""

    level: float
    cell: Cell
    value: float


@figure(order=20)
def accuracy_against_eps(board: Board, tables: Tables) -> Figure | None:
    """Draw accuracy against the budget with Wilson bands, one panel per quantity that was measured at several."""
    rows, curves = plot_data.drawn(board), families(c for c in board.columns if c.facts.aggregate == "fraction")
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
        title="How robust accuracy falls as the attacker may change more",
        caption="Share of test images still classified right when each may be moved by up to ε. Lines are means over "
        f"seeds; bands are 95 % Wilson intervals over test images.{_rings(board, ring, curves)}{_mixed(board, curves)}",
        alt=_alt(board, curves[0]),
        panels=tuple(_panel(board, family, ring) for family in curves),
        legend="narrow" if len(rows) <= DIRECT else "always",
        wide=True,
        header=("Defense", "Attack", *(f"{symbol}{level:g}, %{_images(board, curves, level)}" for level in levels)),
        numbers=tuple(_line(board, row, family, levels) for family in curves for row in rows),
    )


def _curve(board: Board, row: Row, family: Family) -> list[Point]:
    """Return the points of one defense that were measured, clean accuracy first."""
    clean = board.first("clean")
    columns = [(0.0, clean), *((c.level or 0.0, c) for c in family)]
    return [
        Point(level, row.cells[column.name], value)
        for level, column in columns
        if column is not None and (value := row.value(column)) is not None
    ]


def _panel(board: Board, family: Family, ring: BoardColumn | None) -> Panel:
    """Draw the curves of one family, and where the ranking column lies if it is no part of a family."""
    rows, last = plot_data.drawn(board), family[-1].level or 0.0
    sheet = Sheet(board, 620, 400, (50, room(rows) if len(rows) <= DIRECT else 14, 44, 8))
    ends, lowest = {}, 100.0
    for row in rows:
        points = _curve(board, row, family)
        levels, middle = [p.level for p in points], [100 * p.value for p in points]
        low = [100 * (p.value if p.cell.low is None else p.cell.low) for p in points]
        high = [100 * (p.value if p.cell.high is None else p.cell.high) for p in points]
        colour = sheet.looks[row.defense].colour
        sheet.mark(sheet.axes.fill_between(levels, low, high, color=colour, alpha=0.07, lw=0), row)
        sheet.line(row, levels, middle)
        if points:
            ends[row.defense], lowest = middle[-1], min(lowest, *low)
        if ring is not None and (reached := row.value(ring)) is not None:
            options: Any = {"mfc": "none", "mew": 1.4, "ms": 8, "marker": "o", "clip_on": False}
            sheet.mark(sheet.axes.plot([ring.level or 0.0], [100 * reached], color=colour, **options)[0], row)
    bottom = max(-2.0, 10 * (lowest // 10) - 2)
    name = family[0].level_name
    sheet.axes.set(xlabel=AXES.get(name, formatting.label(name)), ylabel="", ylim=(bottom, 102))
    ticks(sheet.axes, [0.0, *(c.level or 0.0 for c in family)], "{:g}", "x", least=0.03 * last)
    percent_ticks(sheet.axes)
    sheet.axes.grid(visible=False, axis="x")
    sheet.axes.set_xlim(-0.02 * last, 1.02 * last)
    if len(rows) <= DIRECT:
        sheet.label_ends(rows, ends, last, gap=0.044 * (102 - bottom))
    return Panel(f"Under {family[0].heading}", sheet.finish(f"accuracy-{slug(_id(family))}"))


def _id(family: Family) -> str:
    """Return what tells a family's drawing from the others'."""
    return " ".join([family[0].evaluation, family[0].heading])


def _line(board: Board, row: Row, family: Family, levels: list[float]) -> tuple[Entry, ...]:
    """Return one line of the table of numbers: a curve's value at every level of any curve."""
    known = {p.level: Value(p.value, "percent", p.cell.n) for p in _curve(board, row, family)}
    return Value(row.defense), Value(family[0].heading), *(known.get(e, Value(None, "percent")) for e in levels)


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
        f"{row.defense} {formatting.percent(row.value(first), row.n)} % to "
        f"{formatting.percent(row.value(last), row.n)} %"
        for row in plot_data.drawn(board)
    ]
    return f"Accuracy from {symbol} = {first.level:g} to {symbol} = {last.level:g}: {'; '.join(parts)}."
