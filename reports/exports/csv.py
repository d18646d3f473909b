"""leaderboard.csv: full precision, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io

from bench.core.text import one_line
from bench.reports.board.model import Board
from bench.reports.exports.leaderboard import names_of, row_record
from bench.reports.exports.registry import export


@export("leaderboard.csv", media="text/csv", label="CSV", order=10)
def csv_text(board: Board) -> str:
    """Return leaderboard.csv: full precision, empty where missing, no cell that a spreadsheet takes for a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(csv_cell(name) for column in board.columns for name in names_of(column))
    for row in board.rows:
        writer.writerow(csv_cell(value) for value in row_record(row, board.columns).values())
    return stream.getvalue()


def csv_cell(value: int | float | str | None) -> str:
    """Return a value as one cell: no formula for a spreadsheet, in full precision, empty where missing.

    Args:
        value: of the cell.
    """
    if isinstance(value, str):
        plain = one_line(value)
        return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain
    return "" if value is None else repr(value)
