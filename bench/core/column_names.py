"""What a column of an evaluation may be called: the tables have names of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bench.core.errors import UsageError
from bench.core.text import is_plain, one_line

RESERVED: Final = frozenset({"index", "label", "defense", "seed"})  # say which row of examples.parquet it is
RESERVED_ON_THE_BOARD: Final = frozenset({"rank", "rank_low", "rank_high", "defense", "seeds", "n"})
LONGEST_NAME: Final = 128  # characters


def check_column_names(where: str, columns: Iterable[object], board: Iterable[object] = ()) -> None:
    """Refuse names of columns that a table or a board cannot have.

    Args:
        where: what an error message begins with.
        columns: names or patterns of per-example columns.
        board: names or patterns of the board's columns.

    Raises:
        UsageError: one is no text of 1 to 128 printable characters, or is reserved.
    """
    for names, reserved in ((columns, RESERVED), (board, RESERVED_ON_THE_BOARD)):
        for name in names:
            if not isinstance(name, str) or not name or not is_plain(name, LONGEST_NAME):
                got = f"{one_line(name, 40)!r}, {len(name):,} long" if isinstance(name, str) else type(name).__name__
                raise UsageError(
                    f"{where}: expected columns named by 1 to {LONGEST_NAME} printable characters, got {got}. "
                    "Rename it."
                )
            if name in reserved:
                taken = ", ".join(sorted(reserved))
                raise UsageError(f"{where}: expected a column's name that is not {taken}, got {name!r}. Rename it.")
