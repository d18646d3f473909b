"""The whole answer in one sentence, and the phrases that all answers are made of."""

from __future__ import annotations

from bench.core.records import Grade
from bench.core.stats.intervals import ALPHA
from bench.reports import formatting
from bench.reports.board.model import Board, Pair
from bench.reports.board.training_cost import seconds
from bench.reports.figures import plot_data
from bench.reports.html.phrases import all_level, gap, p_text, pair_of, ranked, share


def headline(board: Board) -> str:
    """Return the whole answer in one sentence: who ranks first by what, and whether its lead is resolved."""
    rows = ranked(board)
    if not rows:
        return " ".join(["Nothing is ranked.", *why_nothing(board)])
    top, cell = rows[0], rows[0].cells[board.ranking]
    if all_level(board, rows):
        every = formatting.spelled(len(rows))
        return f"None of {every} leads by {plot_data.title(board)}: all stand at {share(cell, interval=True)}."
    first = f"{top.defense} ranks first by {plot_data.title(board)}: {share(cell, interval=True)}"
    if len(rows) == 1:
        return f"{first}. Nothing else is ranked."
    following, pair = rows[1], pair_of(board, rows[0], rows[1])
    if cell.value == following.cells[board.ranking].value:
        return f"{first}; {following.defense} reaches the same."
    lead = f"its lead over {following.defense}, {gap(board, top, following)}"
    if pair is None:
        return f"{first}; {lead}."
    verdict = "is resolved" if pair.p_holm < ALPHA else "is not resolved"
    return f"{first}; {lead}, {verdict} ({_evidence(pair)})."


def _evidence(pair: Pair) -> str:
    return f"{p_text(pair)}, n\u00a0=\u00a0{pair.n:,}"


def why_nothing(board: Board) -> list[str]:
    """Say why nothing is ranked, and what there is instead."""
    sentences, column = [_why_not_one(board)], board.first("clean")
    clean = [(value, r) for r in board.rows if not r.incomplete and (value := r.value(column)) is not None]
    if column is not None and clean:
        _, best = max(clean, key=lambda found: found[0])
        cell = share(best.cells[column.name], interval=True)
        sentences.append(f"Without an attack the best is {best.defense}: {cell}.")
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


def unfinished(board: Board) -> list[str]:
    """Say how much of the run failed or is still missing; nothing where all is done."""
    failed, missing = (sum(len(getattr(r, kind)) for r in board.rows) for kind in ("failures", "missing"))
    parts = [
        f"{formatting.plural(failed, 'cell')} failed" if failed else "",
        f"{missing:,} not finished" if missing else "",
    ]
    parts = [part for part in parts if part]
    return [f"This run is incomplete: {formatting.listing(parts)}."] if parts else []


def repeat(board: Board) -> str:
    """Say how long the whole run took, on what, and which state of the code made it."""
    runs = [run for row in board.rows for run in row.runs.values()]
    spent = sum(seconds(run.training) or 0.0 for run in runs)
    spent += sum(seconds(info) or 0.0 for run in runs for info in run.info.values())
    where = board.plan.environment
    device = where.device_name or where.device
    commit = where.commit[:10]
    state = f"bench {where.bench}" + (f" at commit {commit}" if commit else "")
    changed = " with local changes" if where.dirty else ""
    took = f"It took {formatting.duration(spent)} of computing" if spent else "It ran"
    return f"{took} on {device or 'an unnamed device'}, with {state}{changed}; finished parts are not computed again."
