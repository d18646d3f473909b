"""The five questions a reader has, answered in plain words from the board and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from bench.reports import series, words
from bench.reports.board import Board, Cell, Row


@dataclass(frozen=True)
class Answer:
    """A question, its short answer, and the sentences behind it."""

    question: str
    short: str
    sentences: tuple[str, ...]


def summary(board: Board) -> list[Answer]:
    """Return the answers: which is best, is it really better, can I believe it, what did it cost."""
    rows = [r for r in board.rows if r.rank is not None and board.ranking in r.cells]
    if not rows:
        why = "No attack has been run to its end." if board.ranking else "The suite runs no attack that could rank."
        return [Answer("Which is best?", "Nothing is ranked", (why,))]
    return [_best(board, rows), _better(board, rows), _believe(board, rows), _cost(rows)]


def _cell(board: Board, row: Row) -> Cell:
    return row.cells[board.ranking]


def _percent(cell: Cell, value: float | None) -> str:
    return f"{words.percent(value, cell.n)}\u00a0%"


def _best(board: Board, rows: list[Row]) -> Answer:
    top, cell = rows[0], _cell(board, rows[0])
    tied = [r.defense for r in rows[1:] if r.rank_low == 1]
    sentence = f"It still classifies {_percent(cell, cell.value)} of the test images right under {series.title(board)}"
    if cell.low is not None and cell.high is not None:
        low, high = words.percent(cell.low, cell.n), words.percent(cell.high, cell.n)
        sentence += f" (95 % interval {low}–{high}\u00a0%, {words.plural(cell.n, 'image')})"
    clean = top.cells.get("clean_accuracy")
    sentences = [sentence + "."]
    if clean is not None and not words.missing(clean.value):
        sentences.append(f"Without an attack it is right on {_percent(clean, clean.value)}.")
    if tied:
        sentences.append(f"{words.listing(tied)} could hold first place as well.")
    return Answer("Which is best?", top.defense if not tied else f"{top.defense}, in a tie", tuple(sentences))


def _better(board: Board, rows: list[Row]) -> Answer:
    question = "Is it really better than the next?"
    if len(rows) == 1:
        return Answer(question, "There is no next", ("Only one defense is ranked.",))
    top, following = rows[0], rows[1]
    a, b = _cell(board, top), _cell(board, following)
    gap = 100 * ((a.value or 0.0) - (b.value or 0.0))
    behind = f"{gap:.{words.decimals(a.n)}f}"
    sentences = [f"The next, {following.defense}, is {behind} points behind."]
    if float(behind) == 0:
        sentences = [f"The next, {following.defense}, reaches the same."]
    if board.resolvable is not None:
        least = f"{100 * board.resolvable:.1f}"
        sentences.append(f"With {words.plural(a.n, 'image')}, gaps under {least} points cannot be told from chance.")
    tied = following.rank_low == 1
    if tied:
        sentences.append("Paired tests on the same images do not separate them.")
        places = words.rank_range(top.rank_low, top.rank_high)
        sentences.append(f"Its true place is anywhere in {places}.")
    else:
        sentences.append("Paired tests on the same images, corrected for all pairs, separate them.")
    return Answer(question, "No, they are tied" if tied else "Yes", tuple(sentences))


def _believe(board: Board, rows: list[Row]) -> Answer:
    grades = {r.trust for r in rows}
    top, data = rows[0], board.plan["data"]
    sentences = []
    if grades == {""}:
        short = "With care: trust was not assessed"
        sentences.append("No check for masked gradients was run, so each number is what these attacks found, no more.")
    else:
        short = f"The best row has trust {top.trust or 'not assessed'}"
        if top.trust_failed:
            sentences.append(f"Failed checks of the best row: {', '.join(top.trust_failed)}.")
    violations = [r.bound_violations for r in board.rows if r.bound_violations is not None]
    if violations:
        k = sum(violations)
        sentences.append("No proved bound was violated." if k == 0 else f"{words.plural(k, 'bound violation')} found.")
    sentences += _audit(board)
    sentences.append(_seeds(len(top.seeds)))
    if not data.get("original", True):
        sentences.append(f"The data is {data['name']}, not the original set. {data.get('note', '')}".strip())
    apart = [r.defense for r in board.rows if r.rank is None]
    if apart:
        sentences.append(f"Not ranked: {words.listing(apart)}.")
    return Answer("Can I believe it?", short, tuple(sentences))


def _audit(board: Board) -> list[str]:
    """Say on how many images the official AutoAttack and ours disagreed, where an audit was run."""
    columns = [c.name for c in board.columns if c.name.startswith("audit_")]
    cells = [row.cells[name] for row in board.rows for name in columns if name in row.cells]
    if not cells:
        return []
    k = round(sum(c.value or 0 for c in cells))
    n = max(c.n for c in cells)
    images, times = words.plural(n, "image"), words.plural(k, "time")
    return [f"The official AutoAttack, run on {images} per model, disagreed {times}."]


def _seeds(k: int) -> str:
    """Say what the number of training seeds allows to conclude."""
    if k >= 5:
        return f"Each defense was trained {k} times, enough to speak of the method."
    trained = {1: "once", 2: "twice"}.get(k, f"{k} times")
    return f"Each defense was trained {trained}: this compares these trained models, not the methods (5 seeds would)."


def _cost(rows: list[Row]) -> Answer:
    top = rows[0]
    short = f"{top.train_cost:.1f}× standard training" if top.train_cost is not None else "See the table"
    sentences = []
    if top.train_seconds is not None:
        sentences.append(f"Training {top.defense} took {words.duration(top.train_seconds)} per seed.")
    if top.eval_seconds is not None:
        text = f"Measuring it took {words.duration(top.eval_seconds)}"
        if top.eval_forwards is not None:
            text += f": {words.count(top.eval_forwards)} forward and {words.count(top.eval_backwards)} backward passes"
        sentences.append(text + ".")
    cheapest = min((r for r in rows if r.train_cost is not None), key=lambda r: r.train_cost or 0, default=None)
    if cheapest is not None and cheapest is not top:
        sentences.append(f"The cheapest, {cheapest.defense}, cost {cheapest.train_cost:.2f}×.")
    return Answer("What did it cost?", short, tuple(sentences))
