"""The page's tables of brackets: each row's place by attack and its proved place, what is proved and what is broken."""

from __future__ import annotations

from dataclasses import dataclass

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Bracket
from bench.reports.formatting import Lines, Value


@dataclass(frozen=True)
class Proofs:
    """What is proved and what is broken of every row at one budget.

    Attributes:
        title: of the table: the budget, and the row of which most is proved.
        images: in words, of the rows' brackets.
        lines: one per row: name, place by attack, proved place, the bracket; the most proved first.
    """

    title: str
    images: str
    lines: Lines


def proofs(board: Board) -> list[Proofs]:
    """Return the tables by rising budget; none where nothing is proved of any row.

    Args:
        board: its rows have the brackets.
    """
    return [_proofs(board, eps) for eps in sorted({bracket.eps for row in board.rows for bracket in row.brackets})]


def _proofs(board: Board, eps: float) -> Proofs:
    """Return the table of one budget."""
    known = [(row, bracket) for row in board.rows if (bracket := row.bracket(eps)) is not None]
    known.sort(key=lambda pair: (-pair[1].proved, -pair[1].unbroken))
    first, most = known[0]
    norm = "" if board.threat is None else formatting.norm_symbol(board.threat.norm)
    images = sorted({bracket.n for _, bracket in known})
    return Proofs(
        title=f"{norm} within {eps:g}: most is proved of {first.title}, {most}",
        images=formatting.listing([f"{n:,}" for n in images]),
        lines=tuple(_line(row, bracket) for row, bracket in known),
    )


def _line(row: Row, bracket: Bracket) -> tuple[Value, ...]:
    """Return a row of the table."""
    by_attack = formatting.rank_range((row.apart or row).rank_low, (row.apart or row).rank_high)
    votes = " (by votes)" if row.apart is not None else ""
    proved = formatting.rank_range(bracket.rank_low, bracket.rank_high)
    return Value(row.title), Value(by_attack + votes), Value(proved + votes), Value(str(bracket))
