"""Write every export of a board into its result folder."""

from __future__ import annotations

from pathlib import Path

from bench.core import files
from bench.core.ticks import tick
from bench.reports.board.model import Board
from bench.reports.exports.registry import all_exports


def write_exports(board: Board, out: Path) -> None:
    """Write every export of a board under `out`, each file whole or not at all.

    Args:
        board: what to write.
        out: the result folder.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    entries = all_exports()
    for place, entry in enumerate(entries, start=1):
        tick("writing files", place, len(entries))
        content = entry.make(board) if entry.written else None
        if isinstance(content, bytes):
            files.write_bytes(out / entry.name, content)
        elif isinstance(content, str):
            files.write_text(out / entry.name, content)
        elif content is not None:
            for path, text in content.items():
                files.write_text(out / path, text)
