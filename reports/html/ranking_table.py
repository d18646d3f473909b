"""The ranked table as plain text cells: what stands in each, how it sorts, where its interval bar lies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.core.records import Column
from bench.reports import formatting
from bench.reports.board.model import Board, BoardColumn, Cell, Row
from bench.reports.figures import plot_data
from bench.reports.figures.palette import SHAPES, Style

# The board's own columns: name → (heading, second line, form of the number, shown before the reader chooses).
OWN: dict[str, tuple[str, str, str, bool]] = {
    "seeds": ("Seeds", "", "count", False),
    "n": ("Images", "", "count", False),
    "trust": ("Trust", "", "text", True),
    "trust_failed": ("Failed checks", "", "text", False),
    "bound_violations": ("Bound violations", "", "count", True),
    "train_seconds": ("Training time", "", "seconds", False),
    "train_cost": ("Training cost", "× standard", "ratio", True),
    "eval_seconds": ("Evaluation time", "", "seconds", False),
    "eval_forwards": ("Forward passes", "", "count", False),
    "eval_backwards": ("Backward passes", "", "count", False),
}
FORMS: dict[str, Callable[[Any], str]] = {
    "count": formatting.count,
    "seconds": formatting.duration,
    "ratio": lambda v: f"{v:.2f}×",
    "value": formatting.number,
    "text": str,
}
APART = ("rank", "rank_low", "rank_high", "defense")  # the template's own first two columns


@dataclass(frozen=True)
class ViewColumn:
    """One column of the page's table.

    Attributes:
        name: as in leaderboard.csv.
        heading: its name in words.
        detail: the second line of the heading: budget, radius or unit.
        facts: description, unit, direction, formula, source.
        form: "fraction", "value", "count", "ratio", "seconds" or "text".
        shown: whether it is visible before the reader chooses.
        tip: what the tooltip says.
        domain: ends of the scale of its interval bars, None without bars.
        ranking: whether it is the one that ranks.
    """

    name: str
    heading: str
    detail: str
    facts: Column
    form: str
    shown: bool
    tip: str
    domain: tuple[float, float] | None = None
    ranking: bool = False


@dataclass(frozen=True)
class ViewCell:
    """One cell of the page's table: its text, its sort key, its interval as text and as places on the bar (0-100)."""

    column: ViewColumn
    text: str
    sort: str
    interval: str = ""
    low: float = 0.0
    value: float = 0.0
    high: float = 0.0
    title: str = ""


@dataclass(frozen=True)
class ViewRow:
    """One row of the page's table: `slot` and `shape` are its colour and mark, `fact` the plan's entry of a seed."""

    row: Row
    slot: int
    shape: str
    rank: str
    cells: tuple[ViewCell, ...]
    fact: dict[str, Any]


def view_columns(board: Board) -> list[ViewColumn]:
    """Return the table's columns: the ranking one, plain fractions, then all others in the board's order."""
    measured = [c for c in board.columns if c.evaluation]
    first = [c for c in measured if c.name == board.ranking]
    plain = [c for c in measured if c.facts.aggregate == "fraction" and c.number is None and c not in first]
    rest = [c for c in board.columns if c.name not in APART and c not in first and c not in plain]
    return [_measured(board, c) if c.evaluation else _own(board, c) for c in first + plain + rest]


def _own(board: Board, column: BoardColumn) -> ViewColumn:
    heading, detail, form, shown = OWN.get(column.name, (formatting.label(column.name), "", "value", False))
    filled = any(row.own(column.name) not in (None, "") for row in board.rows)
    return ViewColumn(column.name, heading, detail, column.facts, form, shown and filled, tip(column.facts))


def _measured(board: Board, column: BoardColumn) -> ViewColumn:
    fraction = column.facts.aggregate == "fraction"
    at = "" if column.number is None else f"{'ε' if fraction else 'radius'}\u00a0{column.number:g}"
    cells = [row.cells[column.name] for row in board.rows if column.name in row.cells]
    return ViewColumn(
        name=column.name,
        heading=formatting.label(plot_data.stem(column)).replace(" ℓ", "\u00a0ℓ"),
        detail=", ".join(filter(None, [at, "%" if fraction else ""])),
        facts=column.facts,
        form="fraction" if fraction else "value",
        shown=_shown(board, column),
        tip=tip(column.facts, fraction),
        domain=_domain(cells) if fraction else None,
        ranking=column.name == board.ranking,
    )


def _shown(board: Board, column: BoardColumn) -> bool:
    """Show the ranking column, plain ones, and of a family over radii the largest; the rest waits to be chosen."""
    if column.facts.aggregate == "sum":
        return False
    if column.name.startswith("best_known"):
        return any(_differs(row, column.name, board.ranking) for row in board.rows)
    if column.number is None or column.name == board.ranking:
        return not column.name.startswith(("hessian", "train_"))
    family = plot_data.families(board, fractions=False).get(plot_data.stem(column), [column])
    return column.facts.aggregate != "fraction" and column is family[-1]


def _differs(row: Row, a: str, b: str) -> bool:
    first, second = row.cells.get(a), row.cells.get(b)
    return first is not None and second is not None and first.value != second.value


def tip(facts: Column, fraction: bool = False) -> str:
    """Return what a column's tooltip says: description, unit, direction, formula, source."""
    better = {"higher": "Higher is better.", "lower": "Lower is better."}.get(facts.direction, "")
    parts = [
        facts.description if facts.description.endswith(".") else f"{facts.description}.",
        f"Unit: {unit(facts, fraction)}.",
        better,
        f"Formula: {facts.formula}." if facts.formula else "",
        f"Source: {facts.source}." if facts.source else "",
    ]
    return " ".join(filter(None, parts))


def unit(facts: Column, fraction: bool = False) -> str:
    """Return a column's unit in words."""
    return facts.unit or ("% on this page, a fraction in the files" if fraction else "none, a pure number")


def _domain(cells: list[Cell]) -> tuple[float, float] | None:
    """Return the column's range rounded outwards to 5 points, so that small gaps can be seen."""
    ends = [v for c in cells for v in (c.low, c.high, c.value) if v is not None and not formatting.missing(v)]
    if not ends:
        return None
    low, high = math.floor(min(ends) * 20) / 20, math.ceil(max(ends) * 20) / 20
    return low, max(high, low + 0.05)


def view_cell(row: Row, column: ViewColumn) -> ViewCell:
    """Return one cell; a missing number is a dash that sorts last."""
    if column.name in OWN:
        return _own_cell(row, column)
    cell = row.cells.get(column.name)
    if cell is None or formatting.missing(cell.value):
        return ViewCell(column, formatting.MISSING, "", title="not measured")
    show = shower(column, cell)
    title = f"{formatting.plural(cell.n, 'image')}; " + ", ".join(
        f"seed {s}: {show(v)}" for s, v in cell.by_seed.items()
    )
    if cell.nulls:
        title += f"; {formatting.plural(cell.nulls, 'value')} missing"
    text, sort = show(cell.value), repr(float(cell.value or 0.0))
    if cell.low is None or cell.high is None:
        return ViewCell(column, text, sort, title=title)
    interval = f"{show(cell.low)}–{show(cell.high)}"
    low, value, high = (_place(v or 0.0, column.domain) for v in (cell.low, cell.value, cell.high))
    return ViewCell(column, text, sort, interval, low, value, high, title)


def shower(column: ViewColumn, cell: Cell) -> Callable[[float | None], str]:
    """Return how the numbers of a cell are written: per cent as n allows, else three digits."""
    return (lambda v: formatting.percent(v, cell.n)) if column.form == "fraction" else formatting.number


def _place(value: float, domain: tuple[float, float] | None) -> float:
    low, high = domain or (0.0, 1.0)
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def _own_cell(row: Row, column: ViewColumn) -> ViewCell:
    value = row.own(column.name)
    if column.name == "trust":
        failed = f"failed: {', '.join(row.trust_failed)}" if row.trust_failed else ""
        return ViewCell(column, value or "not assessed", {"INVALID": "Z"}.get(value, value or ""), title=failed)
    if value == "" or formatting.missing(value):
        return ViewCell(column, formatting.MISSING, "")
    return ViewCell(column, FORMS[column.form](value), value if column.form == "text" else repr(float(value)))


def view_rows(columns: list[ViewColumn], looks: dict[str, Style], rows: list[Row]) -> list[ViewRow]:
    """Return the rows in the order given, each with its cells."""
    return [
        ViewRow(
            row=row,
            slot=looks[row.defense].slot,
            shape=SHAPES[looks[row.defense].marker],
            rank=formatting.rank_range(row.rank_low, row.rank_high),
            cells=tuple(view_cell(row, c) for c in columns),
            fact=next(iter(row.facts.values()), {}),
        )
        for row in rows
    ]
