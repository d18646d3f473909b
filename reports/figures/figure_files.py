"""Every drawing as a file of its own: PDF, SVG and PNG, on white, with its title and a legend."""

from __future__ import annotations

from pathlib import Path

from bench.core import files
from bench.reports.board.model import Board
from bench.reports.figures import index, plot_data
from bench.reports.figures.drawing import FORMATS
from bench.reports.figures.palette import styles
from bench.reports.figures.sheet import style


def write_figures(board: Board, folder: Path) -> list[Path]:
    """Write every drawing of the board's figures, and return the paths; the same board makes the same bytes.

    Figures whose colours need a legend get one.

    Args:
        board: what to draw.
        folder: where the files go; files of drawings that there are no more stay.

    Returns:
        The paths of the files.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    import seaborn  # which loads scipy.stats

    quiet = seaborn.axes_style("white")
    paths, looks = list[Path](), styles(plot_data.names(board))
    rows = [row.defense for row in plot_data.drawn(board)]
    for figure in index.draw(board, plot_data.tables(board)):
        legend = {name: looks[name] for name in rows} if figure.legend == "always" else {}
        for panel in figure.panels:
            with style(quiet):
                panel.drawing.label(panel.title, legend)
                for form in FORMATS:
                    path = folder / f"{panel.drawing.name}.{form}"
                    files.write_bytes(path, panel.drawing.file(form))
                    paths.append(path)
    return paths
