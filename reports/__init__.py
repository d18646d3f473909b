"""From the store to tables, figures and the page; never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.cycles import uncollected

if TYPE_CHECKING:
    from bench.reports.board.model import Board


@uncollected()
def write(
    out: str | Path,
    *,
    plan: int | None = None,
    to: str | Path | None = None,
    defenses: Sequence[str] = (),
    only: bool = False,
    columns: Sequence[str] = (),
    figures: bool = False,
) -> Board:
    """Rebuild every report of a result folder from its store, and return the board.

    Args:
        out: the result folder.
        plan: number of the plan that is shown; None: the last command's.
        to: folder that the reports are written into; None: the result folder.
        defenses: rows that are shown; empty: all.
        only: show the plan's own rows alone, not those of earlier commands.
        columns: that LaTeX and Markdown show, by their names in leaderboard.csv; empty: the main ones.
        figures: write every drawing into the folder `figures` as well, as PDF, SVG and PNG.

    Returns:
        The board.

    Raises:
        MachineError: no store there, or the folder cannot be written.
        UsageError: no such row, or no such column.
        IntegrityError: a stored chunk does not match its SHA-256.
    """
    from bench.core import files
    from bench.reports.board import build
    from bench.reports.board.choice import chosen
    from bench.reports.exports import short_table, writer
    from bench.reports.figures import figure_files
    from bench.reports.html import page
    from bench.store.store import Store

    target = Path(out if to is None else to)
    with Store.open(out) as store:
        shown = chosen(store.plans, plan, defenses, only)
        board = replace(build.build(store, shown), chosen=tuple(columns))
    short_table.short_columns(board)  # a column that there is not is said before anything is written
    with ThreadPoolExecutor(1) as side:  # compressing the examples does not hold Python's lock
        written = side.submit(writer.write_exports, board, target)
        html = page.render(board)
        written.result()
    files.write_text(target / "leaderboard.html", html)
    if figures:
        figure_files.write_figures(board, target / "figures")
    return board


def write_again(out: str | Path) -> Board:
    """Rebuild the reports of a result folder after something beside its cells has changed: an audit, a challenge.

    Args:
        out: the result folder.

    Returns:
        The board, narrowed as the report was that is there.

    Raises:
        MachineError: no store there, or the folder cannot be written.
        IntegrityError: a stored chunk does not match its SHA-256.
    """
    from bench.core.errors import UsageError
    from bench.reports.board.choice import narrowing_of

    defenses, only = narrowing_of(Path(out))
    try:
        return write(out, defenses=defenses, only=only)
    except UsageError:  # a row that it was narrowed to is gone
        return write(out)
