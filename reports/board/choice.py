"""Which rows of a folder a report shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.config.defense_spec import normal_form
from bench.core.errors import UsageError, did_you_mean
from bench.store.board_plan import BoardPlan, alone
from bench.store.plans import Plans

MOST_BYTES: Final = 200_000_000  # of an exported file that is read


def narrowing_of(folder: Path) -> tuple[tuple[str, ...], bool]:
    """Return to which rows the report in a folder is narrowed, and whether to its command's own.

    Args:
        folder: where the exports lie.

    Returns:
        No rows, and False, where the report shows all, or there is none that can be read.
    """
    path = folder / "leaderboard.json"
    try:
        narrowed = json.loads(path.read_text("utf-8"))["narrowed"] if path.stat().st_size <= MOST_BYTES else None
        if narrowed is None:
            return (), False
        return tuple(map(str, narrowed["defenses"])), bool(narrowed["only"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (), False


def chosen(plans: Plans, number: int | None, defenses: Sequence[str], only: bool) -> BoardPlan:
    """Return the board of a command, narrowed.

    Args:
        plans: of a store.
        number: of the command's plan; None: the last command's.
        defenses: rows that are shown: their specs, or the name of a defense for all rows of it; empty: all.
        only: the command's own rows alone.

    Returns:
        The rows as one plan.

    Raises:
        UsageError: a row is not on the board.
        StoreError, IntegrityError: there is no plan, or it is damaged.
    """
    if only:
        plan = plans.latest() if number is None else plans.get(number)
        board = alone(plan, plans.numbers()[0] if number is None else number)
    else:
        board = plans.board(number)
    if not defenses:
        return board
    bases = {run.defense: run.base for run in board.plan.rows}
    return board.narrow([row for name in defenses for row in _rows(name, bases)])


def _rows(name: str, bases: dict[str, str]) -> Iterable[str]:
    """Return the rows that a name means: the one of that spec, else all of the defense."""
    same = [row for row in bases if normal_form(row) == normal_form(name)]
    found = same or [row for row, base in bases.items() if base == name]
    if not found:
        raise UsageError(f"--defense: expected a row of the board, got {name!r}. {did_you_mean(name, bases)}")
    return found
