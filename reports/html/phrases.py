"""The phrases that headline and answers are made of."""

from __future__ import annotations

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell, Pair


def ranked(board: Board) -> list[Row]:
    """Return the rows that have a place, best first."""
    return [r for r in board.rows if r.rank is not None and board.ranking in r.cells]


def all_level(board: Board, rows: list[Row]) -> bool:
    """Return whether several rows are ranked and all of them have the same number.

    Args:
        board: what ranks them.
        rows: the ranked ones.
    """
    return len(rows) > 1 and len({r.cells[board.ranking].value for r in rows}) == 1


def share(cell: Cell, interval: bool = False) -> str:
    """Return a cell as "70 %", with its interval as "70 % [57, 79]".

    Args:
        cell: a fraction.
        interval: whether its interval is wanted.
    """
    text = f"{formatting.percent(cell.value, cell.n)}\u00a0%"
    if interval and cell.low is not None and cell.high is not None:
        text += f" [{formatting.percent(cell.low, cell.n)},\u00a0{formatting.percent(cell.high, cell.n)}]"
    return text


def pair_of(board: Board, a: Row, b: Row) -> Pair | None:
    """Return the comparison of two rows; None if they were not compared.

    Args:
        board: it holds the pairs.
        a: one row.
        b: the other.
    """
    return next((p for p in board.pairs if {p.a, p.b} == {a.defense, b.defense}), None)


def gap(board: Board, a: Row, b: Row) -> str:
    """Return the difference of two rows in points, e.g. "11 points".

    Args:
        board: what ranks them.
        a: the row above.
        b: the row below.
    """
    points = 100 * ((a.cells[board.ranking].value or 0.0) - (b.cells[board.ranking].value or 0.0))
    return f"{points:.{formatting.decimals(a.cells[board.ranking].n)}f} points"


def p_text(pair: Pair) -> str:
    """Return "p = 0.14" or "p < 0.0001".

    Args:
        pair: its p, corrected for all pairs.
    """
    p = formatting.p_value(pair.p_holm)
    return f"p\u00a0{p}" if pair.p_holm < formatting.SMALLEST_P else f"p\u00a0=\u00a0{p}"


def tied_with_first(rows: list[Row]) -> list[Row]:
    """Return the ranked rows but the first that could hold the first place as well.

    Args:
        rows: the ranked ones, best first.
    """
    return [row for row in rows[1:] if row.rank_low == 1]
