"""From the store to tables, figures and the page; never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.reports.board.model import Board


def write(
    out: str | Path,
    *,
    plan: int | None = None,
    to: str | Path | None = None,
    defenses: Sequence[str] = (),
    only: bool = False,
) -> Board:
    """Rebuild every report of a result folder from its store, and return the board.

    Args:
        out: the result folder.
        plan: number of the plan that is shown; None: the last command's.
        to: folder that the reports are written into; None: the result folder.
        defenses: rows that are shown; empty: all.
        only: show the plan's own rows alone, not those of earlier commands.

    Returns:
        The board.

    Raises:
        MachineError: no store there, or the folder cannot be written.
        UsageError: no such row.
        IntegrityError: a stored chunk does not match its SHA-256.
    """
    from bench.core import files
    from bench.reports.board import build
    from bench.reports.board.choice import chosen
    from bench.reports.exports import writer
    from bench.reports.html import page
    from bench.store.store import Store

    target = Path(out if to is None else to)
    with Store.open(out) as store:
        shown = chosen(store.plans, plan, defenses, only)
        board = build.build(store, shown)
    with ThreadPoolExecutor(1) as side:  # compressing the examples does not hold Python's lock
        written = side.submit(writer.write_exports, board, target)
        html = page.render(board)
        written.result()
    files.write_text(target / "leaderboard.html", html)
    return board
