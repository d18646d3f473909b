"""All figures of the page, in its order: every file of this folder is asked."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator

from bench.core.ticks import tick
from bench.reports import figures
from bench.reports.board.model import Board
from bench.reports.figures.figure import MAKERS, Figure, Maker, Tables
from bench.reports.figures.sheet import style


def makers() -> list[Maker]:
    """Return the registered functions of all files in this folder, in the page's order."""
    for module in pkgutil.iter_modules(figures.__path__):
        importlib.import_module(f"{figures.__name__}.{module.name}")
    return [maker for _, (_, maker) in sorted(MAKERS.items(), key=lambda item: (item[1][0], item[0]))]


def draw(board: Board, tables: Tables) -> list[Figure]:
    """Return every figure that the board's columns allow, in the page's order.

    Args:
        board: what to draw.
        tables: defense to its per-example table.
    """
    with style(), warnings.catch_warnings():
        # Names in other scripts are texts of the SVG, in the reader's fonts; only their width is then a guess.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        return [figure for maker in _told(makers()) if (figure := maker(board, tables)) is not None]


def _told(makers: list[Maker]) -> Iterator[Maker]:
    """Yield each function, after saying which one it is."""
    for place, maker in enumerate(makers, start=1):
        tick("drawing", place, len(makers))
        yield maker
