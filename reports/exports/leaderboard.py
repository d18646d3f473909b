"""The leaderboard as a data frame: one row per defense, the columns of leaderboard.csv."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.reports.board.model import Board, BoardColumn, Cell, Row

INTEGER_COLUMNS = ("rank", "rank_low", "rank_high", "seeds", "n", "bound_violations", "eval_forwards", "eval_backwards")
TEXT_COLUMNS = ("defense", "trust", "trust_failed")


def names_of(column: BoardColumn) -> list[str]:
    """Return the names that a board column has in leaderboard.csv: itself, and its interval if it is printed there.

    PGD's intervals are left out: its columns are stable names of one number each. All intervals are in the JSON.
    """
    interval = column.evaluation and column.facts.aggregate == "fraction" and not column.evaluation.startswith("pgd")
    return [column.name, *([f"{column.name}_low", f"{column.name}_high"] if interval else [])]


def leaderboard_frame(board: Board) -> pd.DataFrame:
    """Return leaderboard.csv as a DataFrame; missing is NaN or NA, fractions are in [0, 1]."""
    records = [row_record(row, board.columns) for row in board.rows]
    names = [name for column in board.columns for name in names_of(column)]
    frame = pd.DataFrame(records, columns=names)
    kinds = {n: "Int64" if n in INTEGER_COLUMNS else "str" if n in TEXT_COLUMNS else "float64" for n in names}
    return frame.astype(kinds)


def row_record(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, Any]:
    """Return a row's entries by their names in leaderboard.csv; None where missing."""
    record: dict[str, Any] = {}
    for column in columns:
        if column.evaluation:
            cell = row.cells.get(column.name, Cell(None))
            values = (cell.value, cell.low, cell.high)
        else:
            values = (row.own(column.name), None, None)
        record.update(zip(names_of(column), values, strict=False))
    return record
