"""The leaderboard as a data frame: one row per defense, the columns of leaderboard.csv."""

from __future__ import annotations

from typing import TypeAlias

import pandas as pd

from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell

Entry: TypeAlias = int | float | str | None  # one cell of leaderboard.csv
_DTYPES = {"count": "Int64", "text": "str"}  # of the board's own columns, by kind


def names_of(column: BoardColumn) -> list[str]:
    """Return the names that a board column has in leaderboard.csv: itself, and its interval if it is printed there.

    All intervals are in the JSON.

    Args:
        column: of the board.
    """
    facts = column.facts
    interval = bool(column.evaluation) and facts.interval != "none" and facts.csv_interval
    return [column.name, *([f"{column.name}_low", f"{column.name}_high"] if interval else [])]


def text_columns(board: Board) -> set[str]:
    """Return the columns of leaderboard.csv that hold texts."""
    return {column.name for column in board.columns if not column.evaluation and column.facts.kind == "text"}


def leaderboard_frame(board: Board) -> pd.DataFrame:
    """Return leaderboard.csv as a DataFrame; missing is NaN or NA, fractions are in [0, 1]."""
    records = [row_record(row, board.columns) for row in board.rows]
    types = {
        name: "float64" if column.evaluation else _DTYPES.get(column.facts.kind, "float64")
        for column in board.columns
        for name in names_of(column)
    }
    return pd.DataFrame(records, columns=list(types)).astype(types)


def row_record(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, Entry]:
    """Return a row's entries by their names in leaderboard.csv; None where missing.

    Args:
        row: of the board.
        columns: the board's.
    """
    record: dict[str, Entry] = {}
    for column in columns:
        cell = row.cells.get(column.name, Cell(None))
        values: tuple[Entry, ...] = (cell.value, cell.low, cell.high) if column.evaluation else (row.own(column),)
        record.update(zip(names_of(column), values, strict=False))
    return record
