"""leaderboard.bib: the papers of the defenses."""

from __future__ import annotations

from bench.reports.board.model import Board
from bench.reports.exports.registry import export


@export("leaderboard.bib", media="application/x-bibtex", label="BibTeX", order=80, written=False)
def bibtex_text(board: Board) -> str | None:
    """Return the BibTeX entries of the board's defenses, each once; None where no defense has one."""
    entries = (run.entry.bibtex for row in board.rows for run in row.runs.values())
    found = dict.fromkeys(entry.strip() for entry in entries if entry)
    return "\n\n".join(found) + "\n" if found else None
