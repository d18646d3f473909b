"""The ranked table as plain text cells: what stands in each, how it sorts, where its interval bar lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.reports import words
from bench.reports.board import Board, BoardColumn, Cell, Row

from bench.records import Column

# The board's own columns (of the row, not of an evaluation): name → (heading, facts, form of the number).
OWN: dict[str, tuple[str, Column, str]] = {
    "trust": ("Trust", Column(
        "Grade of the checks on the evaluation itself: A all pass and an adaptive attack was declared, B a soft check "
        "failed or could not be assessed, C the number is an upper bound only, INVALID not ranked.",
        kind="text", source="Protocol, section 5"), "text"),
    "bound_violations": ("Bound violations", Column(
        "Cases in which a proved inequality did not hold; each is a fault in the measurement or the model. A dash: "
        "not applicable (the model is not twice differentiable) or not run.",
        unit="cases", kind="count", aggregate="sum", direction="lower", source="Srinivas et al. 2022, Propositions 1-2"),
        "count"),
    "train_cost": ("Training cost", Column(
        "Training time divided by that of the standard defense in the same run.", unit="× standard",
        direction="lower", formula="seconds / seconds of standard"), "ratio"),
    "train_seconds": ("Training time", Column("Time of one training, mean over seeds.", unit="s", direction="lower"),
        "seconds"),
    "eval_seconds": ("Evaluation time", Column(
        "Time of all evaluations of one model, mean over seeds.", unit="s", direction="none"), "seconds"),
    "eval_forwards": ("Forward passes", Column(
        "Images passed forward in all evaluations of one model, mean over seeds.", unit="images", kind="count"), "count"),
    "eval_backwards": ("Backward passes", Column(
        "Images passed backward in all evaluations of one model, mean over seeds.", unit="images", kind="count"),
        "count"),
}  # fmt: skip
SHOWN_OWN = ("trust", "bound_violations", "train_cost")


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
        domain: ends of the scale of its interval bars, None without bars.
        ranking: whether it is the one that ranks.
    """

    name: str
    heading: str
    detail: str
    facts: Column
    form: str
    shown: bool
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
    """One row of the page's table and what its section needs."""

    row: Row
    slot: int
    rank: str
    cells: tuple[ViewCell, ...]
    fact: dict[str, Any] = field(default_factory=dict)


def view_columns(board: Board) -> list[ViewColumn]:
    """Return the table's columns: the ranking one, clean accuracy, the other measurements, then cost."""
    measured = [c for c in board.columns if c.evaluation and any(c.name in r.cells for r in board.rows)]
    first = [c for c in measured if c.name == board.ranking]
    plain = [c for c in measured if c.facts.aggregate == "fraction" and c.number is None and c not in first]
    rest = [c for c in measured if c not in first and c not in plain]
    columns = [_measured(board, c, _shown(board, c, measured)) for c in first + plain + rest]
    given = {c.name: c.facts for c in board.columns if not c.evaluation}
    for name, (heading, facts, form) in OWN.items():
        has = any(getattr(r, name) not in (None, "") for r in board.rows)
        columns.append(ViewColumn(name, heading, facts.unit, given.get(name, facts), form, has and name in SHOWN_OWN))
    return columns


def _shown(board: Board, column: BoardColumn, measured: list[BoardColumn]) -> bool:
    """Show the ranking column, plain ones, and of a family over radii the largest; attacks at other budgets wait."""
    if column.name == board.ranking or column.facts.aggregate == "fraction":
        return column.number is None or column.name == board.ranking
    family = [c.number for c in measured if c.evaluation == column.evaluation and c.number is not None]
    return column.number is None or column.number == max(family)


def _measured(board: Board, column: BoardColumn, shown: bool) -> ViewColumn:
    suffix = "" if column.number is None else f"_{column.number:g}"
    fraction = column.facts.aggregate == "fraction"
    at = "" if column.number is None else f"{'ε' if fraction else 'radius'} {column.number:g}"
    return ViewColumn(
        name=column.name,
        heading=words.label(column.name.removesuffix(suffix)),
        detail=", ".join(filter(None, [at, "%" if fraction else ""])),
        facts=column.facts,
        form="fraction" if fraction else "value",
        shown=shown,
        domain=_domain([r.cells[column.name] for r in board.rows if column.name in r.cells]) if fraction else None,
        ranking=column.name == board.ranking,
    )


def _domain(cells: list[Cell]) -> tuple[float, float] | None:
    """Return the column's range rounded outwards to 5 points, so that small gaps can be seen."""
    ends = [v for c in cells for v in (c.low, c.high, c.value) if v is not None and not words.missing(v)]
    if not ends:
        return None
    low, high = (int(min(ends) * 20) / 20, -int(-max(ends) * 20 // 1) / 20)
    return max(0.0, low), min(1.0, max(high, low + 0.05))


def view_cell(row: Row, column: ViewColumn) -> ViewCell:
    """Return one cell; a missing number is a dash that sorts last."""
    if column.name in OWN:
        return _own_cell(row, column)
    cell = row.cells.get(column.name)
    if cell is None or words.missing(cell.value):
        return ViewCell(column, words.MISSING, "", title="not measured")
    assert cell.value is not None
    show = (lambda v: words.percent(v, cell.n)) if column.form == "fraction" else words.number
    title = f"{words.plural(cell.n, 'image')}; " + ", ".join(f"seed {s}: {show(v)}" for s, v in cell.by_seed.items())
    if cell.nulls:
        title += f"; {words.plural(cell.nulls, 'value')} missing"
    if cell.low is None or cell.high is None:
        return ViewCell(column, show(cell.value), repr(float(cell.value)), title=title)
    low, value, high = (_place(v, column.domain) for v in (cell.low, cell.value, cell.high))
    return ViewCell(
        column,
        show(cell.value),
        repr(float(cell.value)),
        f"{show(cell.low)}–{show(cell.high)}",
        low,
        value,
        high,
        title,
    )


def _place(value: float, domain: tuple[float, float] | None) -> float:
    low, high = domain or (0.0, 1.0)
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def _own_cell(row: Row, column: ViewColumn) -> ViewCell:
    value = getattr(row, column.name)
    if column.name == "trust":
        failed = f"failed: {', '.join(row.trust_failed)}" if row.trust_failed else ""
        return ViewCell(column, value or "not assessed", {"INVALID": "Z", "": ""}.get(value, value), title=failed)
    if words.missing(value):
        return ViewCell(column, words.MISSING, "")
    forms = {"count": words.count, "seconds": words.duration, "ratio": lambda v: f"{v:.2f}×"}
    return ViewCell(column, forms[column.form](value), repr(float(value)))


def view_rows(board: Board, columns: list[ViewColumn], slots: dict[str, int], rows: list[Row]) -> list[ViewRow]:
    """Return the rows in the order given, each with its cells."""
    return [
        ViewRow(
            row=row,
            slot=slots[row.defense],
            rank=words.rank_range(row.rank_low, row.rank_high),
            cells=tuple(view_cell(row, c) for c in columns),
            fact=next(iter(row.facts.values()), {}),
        )
        for row in rows
    ]
