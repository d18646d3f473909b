"""The board and comparisons in the terminal; control characters and markup in names are inert."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from bench.core.text import one_line
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.comparison import Comparison, ComparisonReport
from bench.reports.board.model import Board, Row


def board_table(board: Board) -> Table:
    """Return the board as a table: place, defense, clean, robust corruptions, curvature, cost."""
    data = board.plan.data.name
    title = f"{board.plan.suite.name} on {data}" + (f", ranked by {board.ranking}" if board.ranking else "")
    table = Table(title=Text(one_line(title)), title_justify="left")
    table.add_column("place", justify="right")
    table.add_column("defense", overflow="fold")
    for head, column in _shown(board).items():
        images = board.images_note(column)
        table.add_column(Text(f"{head}, {images}" if images else head), justify="right")
    for name in ("operations ×", "time ×"):
        table.add_column(name, justify="right")
    graded = any(row.trust is not None for row in board.rows)
    if graded:
        table.add_column("trust")
    before: Row | None = None
    for row in board.rows:
        if before is not None and row.standing != before.standing:
            table.add_section()
        before = row
        grade = [Text(row.trust.name if row.trust is not None else formatting.MISSING)] if graded else []
        table.add_row(_rank(row), Text(one_line(row.defense)), *(Text(text) for text in _numbers(board, row)), *grade)
    notes = [board.rows_text] if board.shown is not None and board.shown.earlier else []
    notes += [
        f"{row.defense}: {row.unranked}" for row in board.rows if row.unranked and (board.ranking or row.incomplete)
    ]
    notes += [line for row in board.rows for line in (f"{row.defense}: {f}" for f in row.failures)]
    notes += _doubts(board)
    if board.resolvable is not None:
        pairs = formatting.plural(len(board.pairs), "pair")
        notes.append(f"smallest gap that the images resolve, corrected for {pairs}: {_points(board.resolvable)}")
    notes += board.joining_notes
    table.caption = Text("\n".join(one_line(note) for note in notes)) if notes else None
    table.caption_justify = "left"
    return table


def _doubts(board: Board) -> list[str]:
    """Return why rows have no ratio of times; rows with one reason share a line."""
    rows: dict[str, list[str]] = {}
    for row in board.rows:
        if row.train_time is not None and row.train_time.doubt:
            rows.setdefault(row.train_time.doubt, []).append(row.defense)
    return [f"{formatting.listing(names)}: time × not given: {doubt}" for doubt, names in rows.items()]


def _shown(board: Board) -> dict[str, BoardColumn | None]:
    """Return the measured columns that are shown, by their headings; of corruptions only where they were measured."""
    corruption = board.first("corruption")
    return {
        "clean %": board.first("clean"),
        f"{board.ranking or 'robust'} %": board.ranking_column,
        **({} if corruption is None else {"corruptions %": corruption}),
        "curvature": board.first("curvature"),
    }


def _rank(row: Row) -> Text:
    if row.apart is not None:
        return Text(f"votes {formatting.rank_range(row.apart.rank_low, row.apart.rank_high)}")
    if row.rank is None:
        return Text(
            {"invalid": "invalid", "incomplete": "incomplete", "bound": "≤"}.get(row.standing, formatting.MISSING)
        )
    return Text(formatting.rank_range(row.rank_low, row.rank_high))


def _points(share: float) -> str:
    """Return a share as points of accuracy, two digits, never with an exponent."""
    points = 100 * share
    return f"{points:.0f} points" if points >= 10 else f"{points:.2g} points"


def _numbers(board: Board, row: Row) -> list[str]:
    """Return the measured numbers, the one that ranks with its interval, and cost counted and in time, as text."""
    found = [_number(board, row, column) for column in _shown(board).values()]
    return found + [formatting.MISSING if cost is None else f"{cost:.2f}" for cost in (row.train_flops, row.train_cost)]


def _number(board: Board, row: Row, column: BoardColumn | None) -> str:
    """Return a number of a row as text."""
    cell = row.cells.get(column.name) if column else None
    if cell is None or column is None:
        return formatting.MISSING
    if column.form != "fraction":
        return formatting.number(cell.value)
    shown = formatting.percent(cell.value, cell.n)
    if column.name != board.ranking or cell.low is None or cell.high is None:
        return shown
    return f"{shown} [{formatting.percent(cell.low, cell.n)}, {formatting.percent(cell.high, cell.n)}]"


LISTED = 10  # discordant images named per comparison


def comparison_table(report: ComparisonReport) -> Table:
    """Return a comparison as a table: both values, difference with its interval, p, verdict, images that differ."""
    first = report.comparisons[0]
    table = Table(title=Text(f"a = {one_line(first.a)}\nb = {one_line(first.b)}"), title_justify="left")
    for name in ("column", "a", "b", "b − a", "adjusted 95 %", "adjusted p", "n", "verdict"):
        table.add_column(name, justify="left" if name in ("column", "verdict") else "right")
    defense = ""
    for c in report.comparisons:
        if c.defense != defense:
            defense = c.defense
            table.add_section()
            table.add_row(Text(one_line(defense), style="bold"))
        table.add_row(*(Text(text) for text in _compared(c)))
    notes = [one_line(line) for c in report.comparisons if (line := _differing(c))]
    notes += [one_line(f"not compared: {reason}") for reason in report.skipped]
    notes += [one_line(note) for note in report.notes]
    notes.append(
        "p and interval are Holm-adjusted over all fractions, and over all other numbers; verdicts are about these "
        "trained models."
    )
    table.caption = Text("\n".join(notes))
    table.caption_justify = "left"
    return table


def _compared(c: Comparison) -> list[str]:
    unit = 100 if c.gates else 1
    name = f"{c.column} %" if c.gates else c.column
    shown = [formatting.number(unit * v) for v in (c.a_value, c.b_value, c.difference, c.low, c.high)]
    p = f"{c.p_holm:.2g}" if c.p_holm >= 1e-4 else "< 1e-4"
    verdict = f"{c.verdict}{' (regression)' if c.regression else ''}"
    return [one_line(name), *shown[:3], f"[{shown[3]}, {shown[4]}]", p, f"{c.n:,}", verdict]


def _differing(c: Comparison) -> str:
    """Return which images differ, those that b lost first, at most LISTED of them."""
    if not c.discordant:
        return ""
    names = ", ".join(str(d.index) for d in c.discordant[:LISTED])
    lost = sum(d.b < d.a for d in c.discordant)
    won = len(c.discordant) - lost
    more = f" and {len(c.discordant) - LISTED} more" if len(c.discordant) > LISTED else ""
    return f"{c.defense} {c.column}: b loses {formatting.plural(lost, 'image')}, wins {won}: {names}{more}".strip()
