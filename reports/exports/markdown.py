"""leaderboard.md."""

from __future__ import annotations

import re

from bench.core.text import one_line
from bench.reports.board.model import Board
from bench.reports.exports.leaderboard import names_of, row_record, text_columns
from bench.reports.exports.registry import export


@export("leaderboard.md", media="text/markdown", label="Markdown", order=30)
def markdown_text(board: Board) -> str:
    """Return leaderboard.md: the CSV's columns as a table; fractions with 4 decimals, numbers with 6 digits."""
    names = [name for column in board.columns for name in names_of(column)]
    texts = text_columns(board)
    fractions = {n for c in board.columns if c.evaluation and c.facts.aggregate == "fraction" for n in names_of(c)}
    lines = [f"| {' | '.join(map(_heading, names))} |", f"|{'|'.join('---' if n in texts else '---:' for n in names)}|"]
    for row in board.rows:
        record = row_record(row, board.columns)
        lines.append(f"| {' | '.join(_markdown_cell(record[n], n in fractions) for n in names)} |")
    title = f"# {_plain(board.plan.suite.name)} on {_plain(board.plan.data.name)}"
    notes = [line for note in board.notes for line in ("", _plain(note))]
    return "\n".join([title, "", *lines, *notes]) + "\n"


def _heading(name: str) -> str:
    """Return a column's name; underscores between letters and digits are no emphasis and stay as they are."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", _plain(name))


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", one_line(text))


def _markdown_cell(value: int | float | str | None, fraction: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _plain(value)
    return str(value) if isinstance(value, int) else f"{value:.4f}" if fraction else f"{value:.6g}"
