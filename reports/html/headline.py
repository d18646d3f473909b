"""The verdict in one sentence, and what stands in its place where nothing is ranked."""

from __future__ import annotations

from bench.core.records import Grade
from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures import plot_data
from bench.reports.html.phrases import all_level, gap, ranked, share, tied_with_first

NAMED = 2  # of the rows that tie with the first; more are counted


def headline(board: Board) -> str:
    """Return the verdict: who ranks first, by what, and with whom it ties."""
    rows = ranked(board)
    if not rows:
        return " ".join(["Nothing is ranked.", *why_nothing(board)])
    top, cell = rows[0], rows[0].cells[board.ranking]
    if all_level(board, rows):
        every = formatting.spelled(len(rows))
        return f"None of {every} leads by {plot_data.title(board)}: all stand at {share(cell, interval=True)}."
    first = f"{top.title} ranks first by {plot_data.title(board)}: {share(cell, interval=True)}"
    if len(rows) == 1:
        return f"{first}. Nothing else is ranked."
    ties = tied_with_first(rows)
    if not ties:
        return f"{first}, {gap(board, top, rows[1])} ahead of {rows[1].title}."
    others = formatting.listing([row.title for row in ties])
    if len(ties) > NAMED:
        counted = formatting.spelled(len(ties)).replace("defense", "other defense")
        others = "every other defense" if len(ties) == len(rows) - 1 else counted
    return f"{first}, tied with {others}."


def why_nothing(board: Board) -> list[str]:
    """Say why nothing is ranked, and what there is instead."""
    sentences, column = [_why_not_one(board)], board.first("clean")
    clean = [(value, r) for r in board.rows if not r.incomplete and (value := r.value(column)) is not None]
    if column is not None and clean:
        _, best = max(clean, key=lambda found: found[0])
        cell = share(best.cells[column.name], interval=True)
        sentences.append(f"Without an attack the best is {best.title}: {cell}.")
    failed = sum(len(r.failures) for r in board.rows)
    if failed:
        sentences.append(f"{formatting.plural(failed, 'cell')} failed; the causes stand below.")
    return sentences


def _why_not_one(board: Board) -> str:
    if not board.ranking:
        return "The suite runs no attack that could rank."
    if any(r.trust in (Grade.C, Grade.INVALID) and r.value(board.ranking_column) is not None for r in board.rows):
        return "No complete row can be believed enough: see which checks failed under Trust."
    return "No attack has been run to its end."


def unfinished(board: Board) -> str:
    """Say how many cells of the run are done where not all are; "" where they are.

    Returns:
        The count: each row of the last command has every evaluation before it, one of an earlier command those that
        were planned for it.
    """
    done, total = 0, 0
    for row in board.rows:
        for seed, run in row.runs.items():
            own = board.shown is None or (row.defense, seed) in board.shown.own
            trains = bool(run.entry.train_cell)
            done += list(run.status.values()).count("done") + int(trains and bool(run.training.get("weights")))
            wanted = board.plan.evaluations.keys() - run.entry.unsuited if own else run.entry.evaluations
            total += len(wanted) + int(trains)
    failed = sum(len(row.failures) for row in board.rows)
    if done >= total:
        return ""
    failures = f", {failed:,} failed" if failed else ""
    return f"{done:,} of {formatting.plural(total, 'cell')} done{failures}. Places may still change."
