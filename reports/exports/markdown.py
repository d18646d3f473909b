"""leaderboard.md."""

from __future__ import annotations

import re
from typing import Any

from bench.reports.board.model import Board
from bench.reports.exports.csv import printable
from bench.reports.exports.leaderboard import TEXT_COLUMNS, names_of, row_record


def markdown_text(board: Board) -> str:
    """Return leaderboard.md: the CSV's columns as a table; fractions with 4 decimals, numbers with 6 digits."""
    names = [name for column in board.columns for name in names_of(column)]
    fractions = {n for c in board.columns if c.evaluation and c.facts.aggregate == "fraction" for n in names_of(c)}
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join('---' if n in TEXT_COLUMNS else '---:' for n in names)}|"]
    for row in board.rows:
        record = row_record(row, board.columns)
        lines.append(f"| {' | '.join(_markdown_cell(record[n], n in fractions) for n in names)} |")
    return "\n".join([f"# {_plain(board.plan.suite.name)} on {_plain(board.plan.data.name)}", "", *lines]) + "\n"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", printable(text))


def _markdown_cell(value: Any, fraction: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _plain(value)
    return str(value) if isinstance(value, int) else f"{value:.4f}" if fraction else f"{value:.6g}"
