"""All figures of the page, in its order: every file of this folder is asked."""

from __future__ import annotations

import importlib
import pkgutil
import warnings

from bench.reports import figures
from bench.reports.board.model import Board
from bench.reports.figures.figure import DRAWINGS, Drawing, Figure, Tables
from bench.reports.figures.sheet import style


def drawings() -> list[Drawing]:
    """Return the registered drawing functions of all files in this folder, in the page's order."""
    for module in pkgutil.iter_modules(figures.__path__):
        importlib.import_module(f"{figures.__name__}.{module.name}")
    return [drawing for _, (_, drawing) in sorted(DRAWINGS.items(), key=lambda item: (item[1][0], item[0]))]


def draw(board: Board, tables: Tables) -> list[Figure]:
    """Return every figure that the board's columns allow, in the page's order.

    Args:
        board: what to draw.
        tables: defense to its per-example table.
    """
    with style(), warnings.catch_warnings():
        # Names in other scripts are texts of the SVG, in the reader's fonts; only their width is then a guess.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        return [figure for drawing in drawings() if (figure := drawing(board, tables)) is not None]
