"""leaderboard.md."""

from __future__ import annotations

import re

from bench.core.text import one_line
from bench.reports.board.model import Board
from bench.reports.exports.registry import export
from bench.reports.exports.short_table import ShortCell, place, short_cell, short_columns


@export("leaderboard.md", media="text/markdown", label="Markdown", order=30)
def markdown_text(board: Board) -> str:
    """Return leaderboard.md: the main columns as a short table; what is best of the ranked rows is bold."""
    columns = short_columns(board)
    heads = ["rank", "defense", *(", ".join((c.heading, *c.detail)) for c in columns)]
    marks = ["---:", "---", *("---" if c.column.form == "text" else "---:" for c in columns)]
    lines = [f"| {' | '.join(map(_plain, heads))} |", f"|{'|'.join(marks)}|"]
    tied = False
    for row in board.rows:
        cells = [short_cell(board, row, c.column) for c in columns]
        tied |= any(cell.tied for cell in cells)
        lines.append(f"| {' | '.join([place(row), _plain(row.defense), *map(_cell, cells)])} |")
    title = f"# {_plain(board.plan.suite.name)} on {_plain(board.plan.data.name)}"
    said = ["† not told apart from the best (95 %, Holm over all pairs)."] if tied else []
    said += ["Columns on different images; compare within a column only."] if board.mixed_images else []
    said += [_plain(f"{row.defense}: {row.doubt}") for row in board.rows if row.doubt]
    notes = [line for note in said for line in ("", note)]
    return "\n".join([title, "", *lines, *notes]) + "\n"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is; underscores between letters and digits are no emphasis and stay."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", one_line(text))
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escaped)


def _cell(cell: ShortCell) -> str:
    text = _plain(cell.text)
    text = f"**{text}**" if cell.best else text
    more = f" ± {cell.spread}" if cell.spread else f" {_plain(cell.interval)}" if cell.interval else ""
    return f"{text}{'†' if cell.tied else ''}{more}"
