"""The board in the terminal: rank, defense, clean, robust at the primary budget, curvature."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from bench.reports import words
from bench.reports.board import Board, Row
from bench.reports.exports import printable


def board_table(board: Board) -> Table:
    """Return the board as a table for the terminal; control characters and markup in names are inert."""
    data = board.plan["data"]["name"]
    title = f"{board.plan['suite']['name']} on {data}" + (f", ranked by {board.ranking}" if board.ranking else "")
    table = Table(title=Text(printable(title)), title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("defense", overflow="fold")
    for name in ("clean %", f"{board.ranking or 'robust'} %", "curvature"):
        table.add_column(Text(name), justify="right")
    for row in board.rows:
        table.add_row(_rank(row), Text(printable(row.defense)), *(Text(text) for text in _numbers(board, row)))
    notes = [f"{row.defense}: {row.unranked}" for row in board.rows if row.unranked and board.ranking]
    notes += [line for row in board.rows for line in (f"{row.defense}: {f}" for f in row.failures)]
    if board.resolvable is not None:
        notes.append(f"smallest gap that the images resolve: {100 * board.resolvable:.2g} points")
    table.caption = Text("\n".join(printable(note) for note in notes)) if notes else None
    table.caption_justify = "left"
    return table


def _rank(row: Row) -> Text:
    if row.rank is None:
        return Text("invalid" if row.trust == "INVALID" else words.MISSING)
    span = words.rank_range(row.rank_low, row.rank_high)
    return Text(str(row.rank) if span == str(row.rank) else f"{row.rank} ({span})")


def _numbers(board: Board, row: Row) -> list[str]:
    """Return clean accuracy, robust accuracy with its interval, and curvature as text."""
    clean, robust = row.cells.get("clean_accuracy"), row.cells.get(board.ranking)
    curvature = row.cells.get("curvature")
    shown = words.percent(robust.value, robust.n) if robust else words.MISSING
    if robust and robust.low is not None and robust.high is not None:
        shown += f" [{words.percent(robust.low, robust.n)}, {words.percent(robust.high, robust.n)}]"
    return [
        words.percent(clean.value, clean.n) if clean else words.MISSING,
        shown,
        words.number(curvature.value) if curvature else words.MISSING,
    ]
