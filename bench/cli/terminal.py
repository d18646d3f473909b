"""Print to the terminal: results on stdout, complaints as one line on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.core import streams
from bench.core.text import several_lines

if TYPE_CHECKING:
    from bench.reports.board.model import Board


def console() -> Console:
    """Return the console for results; into a pipe or a file, lines are long enough not to be cut."""
    return Console(width=None if sys.stdout.isatty() else 160)


def print_board(board: Board, out: Path) -> None:
    """Print the ranking table and the path of the page, both of which are stored already."""
    from bench.reports.exports.terminal import board_table

    page = out / "leaderboard.html"
    with streams.finished_work(str(page)):
        console().print(board_table(board))
        print_line(page)


def print_line(text: object) -> None:
    """Print one line on stdout, blanks kept, without control characters."""
    print(several_lines(text).replace("\n", " "))


def print_json(value: object) -> None:
    """Print plain data as indented JSON."""
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    print("\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in lines))


def _escaped(character: str) -> str:
    """Return a character of a JSON text as it is, or by its number where a terminal might obey it."""
    return character if character.isprintable() else json.dumps(character)[1:-1]


def complain(message: str) -> None:
    """Print one line on stderr, without control characters."""
    streams.say(message)
