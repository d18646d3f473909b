"""The ranked table as typed cells: what each holds, how it sorts, where its interval bar lies."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from bench.core.records import Column, Role
from bench.reports import formatting
from bench.reports.board.columns import OWN, BoardColumn, Form, families
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.figures.palette import SHAPES, Style
from bench.reports.formatting import Kind, Value
from bench.reports.html.remarks import Remark
from bench.store.plan_record import RunRecord

APART = (
    "rank",
    "rank_low",
    "rank_high",
    "defense",
    "title",
    "venue",
    "year",
    "link",
)  # in the template's own first two
KINDS: dict[Form, Kind] = {
    "fraction": "percent",
    "value": "number",
    "count": "count",
    "seconds": "seconds",
    "ratio": "ratio",
    "text": "text",
}
BOUNDED: Collection[Role] = ("robust", "best_known", "transfer")  # what attacks found: an upper bound with grade C
STEP = 20  # ends of an interval bar's scale lie on multiples of 1/20 of a share
FROM_ZERO = 0.4  # below this share of the upper end the lower one is 0


@dataclass(frozen=True)
class TableColumn:
    """One column of the page's table.

    Attributes:
        column: of the board.
        detail: the second line of the heading: level or unit.
        shown: whether it is visible before the reader chooses.
        domain: ends of the scale of its interval bars, None without bars.
        ranking: whether it is the one that ranks.
    """

    column: BoardColumn
    detail: str
    shown: bool
    domain: tuple[float, float] | None = None
    ranking: bool = False

    @property
    def name(self) -> str:
        """As in leaderboard.csv."""
        return self.column.name

    @property
    def heading(self) -> str:
        """Its name in words; a norm is not parted from its word."""
        return self.column.heading.replace(" ℓ", "\u00a0ℓ")

    @property
    def facts(self) -> Column:
        """Description, unit, direction, formula, source."""
        return self.column.facts

    @property
    def kind(self) -> Kind:
        """The form of its numbers."""
        return KINDS[self.column.form]

    @property
    def arrow(self) -> str:
        """The good direction: "↑", "↓" or ""."""
        return {"higher": "↑", "lower": "↓"}.get(self.facts.direction, "")

    @property
    def scale(self) -> tuple[str, str] | None:
        """Both ends of the scale of its interval bars, as its numbers are written; None without bars."""
        if self.domain is None:
            return None
        low, high = (f"{100 * end if self.kind == 'percent' else end:.4g}" for end in self.domain)
        return low, high

    @property
    def tip(self) -> str:
        """What the tooltip says."""
        return tip(self.facts, self.kind == "percent")

    def entry(self, value: float | str | None, n: int = 0) -> Value:
        """Return one of its numbers in its form.

        Args:
            value: the number, or a text.
            n: images behind it.
        """
        return Value(value, self.kind, n, "×" if self.kind == "ratio" else "")


@dataclass(frozen=True)
class Bar:
    """An interval as places on its column's scale, 0-100."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class TableCell:
    """One cell of the page's table.

    Attributes:
        column: of the table.
        value: what it shows.
        sort: its sort key, "" sorts last.
        low: lower end of its interval, None without one.
        high: upper end.
        bar: the interval drawn.
        title: more about it, for the pointer.
        prefix: written before the value: "≤" where it is an upper bound only.
        sign: of the remark that says why it does not compare with the others, "" without one.
    """

    column: TableColumn
    value: Value
    sort: float | str = ""
    low: Value | None = None
    high: Value | None = None
    bar: Bar | None = None
    title: str = ""
    prefix: str = ""
    sign: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of the page's table: `slot` and `shape` are its colour and mark."""

    row: Row
    slot: int
    shape: str
    rank: str
    cells: tuple[TableCell, ...]

    @property
    def entry(self) -> RunRecord:
        """The plan's entry of its first run."""
        return self.row.entry


def table_columns(board: Board) -> list[TableColumn]:
    """Return the table's columns: the ranking one, plain fractions, then all others in the board's order.

    Brackets at budgets other than the board's stand in tables of their own (`bench.reports.html.proofs`).
    """
    first = [c for c in board.columns if c.evaluation and c.name == board.ranking]
    plain = [c for c in board.columns if c.evaluation and c.form == "fraction" and c.level is None]
    plain = [c for c in plain if c not in first]
    aside = [c for c in board.columns if not c.evaluation and c.facts.pattern and not c.facts.shown]
    rest = [c for c in board.columns if c.name not in APART and c not in first + plain + aside]
    return [_measured(board, c) if c.evaluation else _own(board, c) for c in first + plain + rest]


def _own(board: Board, column: BoardColumn) -> TableColumn:
    values = [row.own(column) for row in board.rows]
    told = any(value not in (None, "") for value in values)
    if column.facts.role == "violations":  # without one there is nothing to compare
        told = any(values)
    if column == _TIME and any(row.train_flops is not None for row in board.rows):  # the count says it better
        told = False
    return TableColumn(column, column.detail, column.facts.shown and told)


def _measured(board: Board, column: BoardColumn) -> TableColumn:
    fraction = column.form == "fraction"
    at = "" if column.level is None else f"{formatting.level_name(column.level_name)}\u00a0{column.level:g}"
    cells = [row.cells[column.name] for row in board.rows if column.name in row.cells]
    return TableColumn(
        column,
        detail=", ".join(filter(None, [at, "%" if fraction else "", board.images_note(column)])),
        shown=_shown(board, column),
        domain=_domain(cells, fraction),
        ranking=column.name == board.ranking,
    )


def _shown(board: Board, column: BoardColumn) -> bool:
    """Show the ranking column, plain ones, and the last of a family; the rest waits to be chosen."""
    if column.name == board.ranking:
        return True
    if not column.facts.shown or column.facts.aggregate == "sum" or column.split != "test":
        return False
    if column.facts.role == "best_known":
        return any(_differs(row, column, board.ranking_column) for row in board.rows)
    if column.level is None:
        return True
    if column.facts.role == "robust":  # a figure shows them
        return False
    family = next((f for f in families(board.columns) if column in f), (column,))
    return column is family[-1]


def _differs(row: Row, a: BoardColumn, b: BoardColumn | None) -> bool:
    first, second = row.cells.get(a.name), row.cells.get(b.name) if b else None
    return first is not None and second is not None and first.value != second.value


def tip(facts: Column, fraction: bool = False) -> str:
    """Return what a column's tooltip says: description, unit, direction, formula, source.

    Args:
        facts: what the column is.
        fraction: whether the page shows its numbers in per cent.
    """
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
    """Return a column's unit in words.

    Args:
        facts: what the column is.
        fraction: whether the page shows its numbers in per cent.
    """
    if fraction and facts.unit in ("", "share"):
        return "% on this page, a fraction in the files"
    return facts.unit or "none, a pure number"


def _domain(cells: Iterable[Cell], fraction: bool) -> tuple[float, float] | None:
    """Return the range of the numbers with intervals, rounded outwards so that small gaps can be seen."""
    known = [c for c in cells if c.low is not None and c.high is not None]
    ends = [v for c in known for v in (c.low, c.high, c.value) if v is not None and not math.isnan(v)]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    if fraction:
        low, high = math.floor(low * STEP) / STEP, math.ceil(high * STEP) / STEP
        return low, max(high, low + 1 / STEP)
    if 0 <= low < FROM_ZERO * high:
        low = 0.0
    step = 10.0 ** math.floor(math.log10((high - low) or abs(high) or 1.0)) / 2
    low, high = step * math.floor(low / step), step * math.ceil(high / step)
    return low, high if high > low else low + step


def table_cell(row: Row, column: TableColumn) -> TableCell:
    """Return one cell; a missing number is a dash that sorts last.

    Args:
        row: of the board.
        column: of the table.
    """
    if not column.column.evaluation:
        return _own_cell(row, column)
    cell = row.cells.get(column.name)
    if cell is None or cell.value is None or math.isnan(cell.value):
        return TableCell(column, column.entry(None), title="not measured")
    title = f"{formatting.plural(cell.n, 'image')}; " + ", ".join(
        f"seed {s}: {column.entry(v, cell.n)}" for s, v in cell.by_seed.items()
    )
    if cell.nulls:
        title += f"; {formatting.plural(cell.nulls, 'value')} missing"
    value = column.entry(cell.value, cell.n)
    prefix = "≤\u00a0" if row.is_upper_bound and column.facts.role in BOUNDED else ""
    if cell.low is None or cell.high is None:
        return TableCell(column, value, cell.value, title=title, prefix=prefix)
    bar = Bar(*(_place(v, column.domain) for v in (cell.low, cell.value, cell.high)))
    low, high = column.entry(cell.low, cell.n), column.entry(cell.high, cell.n)
    return TableCell(column, value, cell.value, low, high, bar, title, prefix)


def _place(value: float, domain: tuple[float, float] | None) -> float:
    low, high = domain or (0.0, 1.0)
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)


def _own_cell(row: Row, column: TableColumn) -> TableCell:
    value = row.own(column.column)
    if column.column == _TRUST:
        sort: float | str = "" if row.trust is None else int(row.trust)
        title = "; ".join(filter(None, [row.assessment.who, *row.assessment.reasons]))
        return TableCell(column, column.entry(value or "not assessed"), sort, title=title)
    title = _time_title(row) if column.column == _TIME else ""
    if value is None or value == "":
        return TableCell(column, Value(formatting.MISSING, column.kind), title=title)
    return TableCell(column, column.entry(value), value if isinstance(value, str) else float(value), title=title)


def _time_title(row: Row) -> str:
    """Return the seeds' own ratios of training time, or why none is given."""
    if row.train_time is None:
        return ""
    if row.train_time.doubt:
        return f"not given: {row.train_time.doubt}"
    return ", ".join(f"seed {seed}: {ratio:.2f}×" for seed, ratio in row.train_time.by_seed.items())


_TRUST, _TIME = (next(column for column in OWN if column.name == name) for name in ("trust", "train_cost"))


def table_rows(
    columns: list[TableColumn], looks: dict[str, Style], rows: Iterable[Row], remarks: Iterable[Remark] = ()
) -> list[TableRow]:
    """Return the rows in the order given, each with its cells.

    Args:
        columns: of the table.
        looks: defense to its colour and mark.
        rows: of the board.
        remarks: where numbers do not compare.
    """
    signs = {(name, defense): r.sign for r in remarks for name in r.columns for defense in r.defenses}
    return [
        TableRow(
            row=row,
            slot=looks[row.defense].slot,
            shape=SHAPES[looks[row.defense].marker],
            rank=formatting.rank_range((row.apart or row).rank_low, (row.apart or row).rank_high),
            cells=tuple(replace(table_cell(row, c), sign=signs.get((c.name, row.defense), "")) for c in columns),
        )
        for row in rows
    ]
