"""The five questions a reader has, answered in plain words from the board and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.records import Grade
from bench.core.stats.intervals import ALPHA, nearest
from bench.reports import formatting
from bench.reports.board.challenges import counts_transfer
from bench.reports.board.columns import with_role
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.html.headline import unfinished, why_nothing
from bench.reports.html.phrases import all_level, gap, p_text, pair_of, ranked, share


@dataclass(frozen=True)
class Answer:
    """A question, its short answer, and the sentences behind it."""

    question: str
    short: str
    sentences: tuple[str, ...]


def summary(board: Board) -> list[Answer]:
    """Return the answers: which is best, is it really better, can I believe it, what did it cost."""
    rows = ranked(board)
    if not rows:
        present = [r for r in board.rows if r.cells and not r.incomplete] or [r for r in board.rows if r.cells]
        nothing = Answer("Which is best?", "Nothing is ranked", tuple(why_nothing(board)))
        return [nothing, *([_believe(board, present), _cost(present)] if present else [])]
    return [_best(board, rows), _better(board, rows), _believe(board, rows), _cost(rows)]


def _best(board: Board, rows: list[Row]) -> Answer:
    top, cell = rows[0], rows[0].cells[board.ranking]
    tied = [r.defense for r in rows[1:] if r.rank_low == 1]
    level = all_level(board, rows)
    subject = "Each" if level else "It"
    sentence = f"{subject} still classifies {share(cell)} of the test images right under {plot_data.title(board)}"
    if cell.low is not None and cell.high is not None:
        low, high = formatting.percent(cell.low, cell.n), formatting.percent(cell.high, cell.n)
        sentence += f" (95 % interval {low}–{high}\u00a0%, {formatting.plural(cell.n, 'image')})"
    sentences = [sentence + "."]
    column = board.first("clean")
    if column is not None and top.value(column) is not None:
        who = top.defense if level else "it"
        other = f" of {formatting.plural(top.cells[column.name].n, 'image')}" if board.mixed_images else ""
        sentences.append(f"Without an attack {who} is right on {share(top.cells[column.name])}{other}.")
    if level:
        return Answer("Which is best?", "None: all are level", tuple(sentences))
    if tied:
        sentences.append(f"{formatting.listing(tied)} could hold first place as well.")
    return Answer("Which is best?", top.defense if not tied else f"{top.defense}, in a tie", tuple(sentences))


def _better(board: Board, rows: list[Row]) -> Answer:
    question = "Is it really better than the next?"
    if len(rows) == 1:
        return Answer(question, "There is no next", ("Only one defense is ranked.",))
    top, following, pair = rows[0], rows[1], pair_of(board, rows[0], rows[1])
    level = top.cells[board.ranking].value == following.cells[board.ranking].value
    behind = "reaches the same" if level else f"is {gap(board, top, following)} behind"
    sentences = [f"The next, {following.defense}, {behind}."]
    if all_level(board, rows):
        return Answer(question, "No: all are level", (f"{formatting.spelled(len(rows)).capitalize()} reach the same.",))
    tied = following.rank_low == 1
    if pair is not None:
        sentences.append(
            f"On the same {formatting.plural(pair.n, 'image')} it wins {pair.only_a} and loses {pair.only_b}: "
            f"{p_text(pair)} "
            f"after correction for {formatting.plural(len(board.pairs), 'pair')}, "
            f"{'too weak to tell them apart' if tied else 'so they differ'}."
        )
    if pair is not None and min(len(top.seeds), len(following.seeds)) > 1:
        sentences.append("An image is won where more of the seeds are right.")
    beaten = [r.defense for r in rows[1:] if (p := pair_of(board, top, r)) and p.p_holm < ALPHA]
    if tied and beaten:
        rest = len(beaten) == len(rows) - 2 > 2
        others = f"each of the other {formatting.spelled(len(beaten))}" if rest else formatting.listing(beaten)
        sentences.append(f"It is shown to be better than {others}.")
    elif tied:
        sentences.append("It is not shown to be better than any other either.")
    return Answer(question, "No, not shown" if tied else "Yes", tuple(sentences))


def _believe(board: Board, rows: list[Row]) -> Answer:
    top, data = rows[0], board.plan.data
    short, sentences = _graded(board, top)
    sentences += _transferred(board, top)
    violations = [r.bound_violations for r in board.rows if r.bound_violations is not None]
    if violations:
        k = sum(violations)
        sentences.append(
            "No proved bound was violated." if k == 0 else f"{formatting.plural(k, 'bound violation')} found."
        )
    sentences += _audit(board)
    sentences += [f"Audited: {top.audit.statement}."] if top.audit else []
    counts = {len(r.seeds) for r in rows}
    sentences.append(_seeds(min(counts)) if len(counts) == 1 else "Not every defense has all of its seeds yet.")
    sentences += unfinished(board)
    if not data.original:
        sentences.append(f"The data is {data.name}, not the original set. {data.note}".strip())
    apart = [r.defense for r in board.rows if r.rank is None and r.trust not in (Grade.C, Grade.INVALID)]
    if apart and len(apart) < len(board.rows):
        sentences.append(f"Not ranked: {formatting.listing(apart)}.")
    return Answer("Can I believe it?", short, tuple(sentences))


def _graded(board: Board, top: Row) -> tuple[str, list[str]]:
    """Return the best row's grade in short, and in sentences with its reasons and with the rows that have a worse one.

    Args:
        board: all rows.
        top: the best.
    """
    if all(r.trust is None for r in board.rows):
        return "With care: trust was not assessed", [formatting.GRADES[None][1]]
    short, sentence = formatting.GRADES[top.trust]
    who = f" (its worst, {top.assessment.who})" if top.assessment.who else ""
    sentences = [f"{top.defense}{who}: {sentence[:1].lower()}{sentence[1:]}"]
    sentences += [f"{reason}." for reason in top.assessment.reasons]
    for grade, what in ((Grade.C, "An upper bound only, below the ranking"), (Grade.INVALID, "Invalid")):
        names = [r.defense for r in board.rows if r.trust is grade and r is not top]
        sentences += [f"{what}: {formatting.listing(names)}."] if names else []
    return f"{top.defense}: {short}", sentences


def _transferred(board: Board, top: Row) -> list[str]:
    """Say what the other rows' examples, and challenges, broke of the best one beyond its own attack."""
    own, known = top.value(board.ranking_column), top.value(board.best_known())
    column = board.best_known()
    if own is None or known is None or column is None or top.cells[column.name].n != top.cells[board.ranking].n:
        return []
    cell = top.cells[board.ranking]
    challenged = board.lowered_by_challenges(top.defense) / (cell.n * len(cell.by_seed))
    said = [f"Accepted challenges cost it {100 * challenged:.1f} points more."] if challenged else []
    if not counts_transfer(column):
        return said
    lost = 100 * (own - known - challenged)
    if lost < 1e-9:
        return ["Adversarial examples made for the other defenses broke nothing that its own attack had not.", *said]
    text = f"Adversarial examples made for the other defenses cost it {lost:.1f} points more: its attack is too weak."
    return [text, *said]


def _audit(board: Board) -> list[str]:
    """Say on how many images the official AutoAttack and ours disagreed, where an audit was run."""
    names = [column.name for column in with_role(board.columns, "audit")]
    cells = [row.cells[name] for row in board.rows for name in names if name in row.cells]
    if not cells:
        return []
    k = nearest(sum(c.value or 0 for c in cells))
    n = max(c.n for c in cells)
    images, times = formatting.plural(n, "image"), formatting.plural(k, "time")
    return [f"The official AutoAttack, run on {images} per model, disagreed {times}."]


def _seeds(k: int) -> str:
    """Say what the number of training seeds allows to conclude."""
    if k >= 5:
        return f"Each defense was trained {k} times, enough to speak of the method."
    trained = {1: "once", 2: "twice"}.get(k, f"{k} times")
    return f"Each defense was trained {trained}: this compares these trained models, not the methods (5 seeds would)."


def _cost(rows: list[Row]) -> Answer:
    top = rows[0]
    short = "See the table"
    if top.train_flops is not None:
        short = f"{top.train_flops:.1f}× standard training"
    elif top.train_cost is not None:
        short = f"{top.train_cost:.1f}× standard training"
    elif top.train_seconds is not None:
        short = f"{formatting.duration(top.train_seconds)} of training"
    sentences = []
    if top.train_flops is not None:
        sentences.append(
            f"Counted in operations, training {top.defense} costs {top.train_flops:.2f}× standard training."
        )
    if top.train_seconds is not None:
        sentences.append(f"It took {formatting.duration(top.train_seconds)} per seed{_relative_time(top)}.")
    if top.eval_seconds is not None:
        text = f"Measuring it took {formatting.duration(top.eval_seconds)}"
        if top.eval_forwards is not None:
            forwards, backwards = formatting.count(top.eval_forwards), formatting.count(top.eval_backwards)
            text += f": {forwards} forward and {backwards} backward passes"
        sentences.append(text + ".")
    counted = all(r.train_flops is not None for r in rows)
    costs = [(r.train_flops if counted else r.train_cost, r) for r in rows]
    known = [(cost, r) for cost, r in costs if cost is not None]
    if known:
        least, cheapest = min(known, key=lambda found: found[0])
        if cheapest is not top:
            sentences.append(f"The cheapest, {cheapest.defense}, costs {least:.2f}× standard training.")
    return Answer("What did it cost?", short, tuple(sentences))


def _relative_time(row: Row) -> str:
    """Return the measured time beside Standard's, as the rest of a sentence; "" without Standard."""
    if row.train_time is None:
        return ""
    if row.train_time.doubt:
        return f"; no ratio to standard training is given, because {row.train_time.doubt}"
    return f", {row.train_cost:.2f}× standard training"
