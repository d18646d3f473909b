"""Print to the terminal: results on stdout, complaints as one line on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape

from bench.core import streams
from bench.core.text import one_line, several_lines
from bench.core.ticks import Tick, heard

if TYPE_CHECKING:
    from bench.reports.board.model import Board

SILENT_SECONDS: Final = 20.0  # of a command in a pipe, before it says how far it is


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


@contextlib.contextmanager
def steps(command: str) -> Iterator[None]:
    """Say on stderr how far the computation in the block is: in one line that changes on a terminal.

    Elsewhere there is a line per stage, once 20 seconds have passed: what is quick says nothing.

    Args:
        command: what the lines begin with.
    """
    screen = Console(stderr=True, soft_wrap=True, highlight=False)
    began, said = time.monotonic(), ""

    def line(tick: Tick) -> str:
        return escape(one_line(f"{command}: {tick.stage} {tick.done:,}/{tick.of:,}"))

    if screen.is_terminal:
        with screen.status(escape(command), refresh_per_second=4) as status, heard(lambda t: status.update(line(t))):
            yield
        return

    def show(tick: Tick) -> None:
        nonlocal said
        if tick.stage != said and time.monotonic() - began > SILENT_SECONDS:
            said = tick.stage
            complain(line(tick))

    with heard(show):
        yield


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
