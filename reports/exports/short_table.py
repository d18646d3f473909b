"""The board in short, for papers and readmes: its main columns, or those that were asked for, as texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.core.errors import UsageError, did_you_mean
from bench.core.stats.seeds import describe_seeds
from bench.reports import formatting
from bench.reports.board.columns import COST, TRUST, BoardColumn, Form
from bench.reports.board.model import Board, Row
from bench.reports.formatting import Kind, Value

FIXED: Final = ("rank", "rank_low", "rank_high", "defense")  # always there, in one column each
_KINDS: Final[Mapping[Form, Kind]] = {
    "fraction": "percent",
    "value": "number",
    "count": "integer",
    "seconds": "seconds",
    "ratio": "ratio",
    "text": "text",
}


@dataclass(frozen=True)
class ShortColumn:
    """One column: its words, and its level, unit and images below them."""

    column: BoardColumn
    heading: str
    detail: tuple[str, ...]


@dataclass(frozen=True)
class ShortCell:
    """One number as text.

    Attributes:
        text: the number, a dash where it is missing.
        interval: its 95 % interval, of the ranking column; "" for others.
        spread: sample sd over seeds from three on, else "".
        best: whether it is the best of the ranked rows.
        tied: whether it is not the best, but not told apart from it either, by the ranking column.
    """

    text: str
    interval: str = ""
    spread: str = ""
    best: bool = False
    tied: bool = False


def short_columns(board: Board) -> list[ShortColumn]:
    """Return the columns that `--columns` names, else the main ones.

    Those are clean accuracy, robust, best known, under corruptions, curvature, cost and trust.

    Args:
        board: it has the columns, and the names of those that were asked for.

    Raises:
        UsageError: a name that is no column of the board.
    """
    columns = [c for c in board.columns if c.name not in FIXED]
    if board.chosen:
        known = {c.name: c for c in columns}
        for name in board.chosen:
            if name not in known:
                raise UsageError(
                    f"--columns: expected columns of leaderboard.csv, got {name!r}. {did_you_mean(name, known)}"
                )
        return [_short(board, known[name]) for name in dict.fromkeys(board.chosen)]
    cost = next((c for c in COST if c.form == "ratio" and any(r.own(c) is not None for r in board.rows)), None)
    trust = [c for c in TRUST[:1] if any(row.trust is not None for row in board.rows)]
    others = [board.first("corruption"), board.first("curvature")]
    main = [board.first("clean"), board.ranking_column, board.best_known(), *others, cost, *trust]
    return [_short(board, column) for column in main if column is not None]


def short_cell(board: Board, row: Row, column: BoardColumn) -> ShortCell:
    """Return one number of the short table.

    Args:
        board: it says which rows are ranked.
        row: of the board.
        column: of the short table.
    """
    kind = _KINDS[column.form]
    if not column.evaluation:
        own = row.own(column)
        return ShortCell(str(Value(own if own != "" else None, kind)), best=_best(board, row, column))
    cell = row.cells.get(column.name)
    if cell is None or cell.value is None:
        return ShortCell(formatting.MISSING)
    ranking = column is board.ranking_column
    ends = (cell.low, cell.high) if ranking and cell.low is not None else ()
    sd = describe_seeds(list(cell.by_seed.values())).sd
    best = _best(board, row, column)
    return ShortCell(
        text=str(Value(cell.value, kind, cell.n)),
        interval=f"[{', '.join(str(Value(end, kind, cell.n)) for end in ends)}]" if ends else "",
        spread="" if sd is None else str(Value(sd, kind, cell.n)),
        best=best,
        tied=ranking and row.rank_low == 1 and not best,
    )


def place(row: Row) -> str:
    """Return the place of a row, or the range that paired tests leave open.

    Args:
        row: of the board.
    """
    return formatting.rank_range(row.rank_low, row.rank_high)


def _best(board: Board, row: Row, column: BoardColumn) -> bool:
    """Tell whether a row has the best number of the ranked rows, of which there are several, not all level."""
    best = {"higher": max, "lower": min}.get(column.facts.direction)
    values = {r.defense: _number(r, column) for r in board.rows if r.rank is not None}
    known = [v for v in values.values() if v is not None]
    if best is None or len(set(known)) < 2:
        return False
    return values.get(row.defense) == best(known)


def _number(row: Row, column: BoardColumn) -> float | None:
    value = row.value(column) if column.evaluation else row.own(column)
    return None if isinstance(value, str) else value


def _short(board: Board, column: BoardColumn) -> ShortColumn:
    """Return a column with its words."""
    level = "" if column.level is None else f"{formatting.level_name(column.level_name)} = {column.level:g}"
    unit = "%" if column.form == "fraction" else column.detail
    first = ", ".join(filter(None, (level, unit)))
    return ShortColumn(column, column.heading, tuple(filter(None, (first, board.images_note(column)))))
