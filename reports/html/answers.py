"""The questions a reader has, each answered in one line from the board and nothing else, and what explains it."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.records import Grade
from bench.core.stats.intervals import ALPHA, nearest
from bench.reports import formatting
from bench.reports.board.challenges import counts_transfer
from bench.reports.board.columns import with_role
from bench.reports.board.model import Board, Row
from bench.reports.html.phrases import all_level, gap, p_text, pair_of, ranked, tied_with_first

NEXT = "Better than the next?"
BELIEVE = "Can it be believed?"
COST = "What did it cost?"


@dataclass(frozen=True)
class Answer:
    """A question with its answer.

    Attributes:
        question: what a reader asks.
        short: the answer in a few words.
        line: the rest of the same line.
        more: sentences behind it, which say nothing twice.
    """

    question: str
    short: str
    line: str
    more: tuple[str, ...] = ()


def summary(board: Board) -> list[Answer]:
    """Return the answers: is the first really better, can it be believed, what did it cost."""
    rows = ranked(board)
    if not rows:
        present = [r for r in board.rows if r.cells and not r.incomplete] or [r for r in board.rows if r.cells]
        return [_believe(board, present), _cost(present)] if present else []
    return [_better(board, rows), _believe(board, rows), _cost(rows)]


def _better(board: Board, rows: list[Row]) -> Answer:
    if len(rows) == 1:
        return Answer(NEXT, "There is no next:", "only one defense is ranked.")
    if all_level(board, rows):
        return Answer(NEXT, "No:", f"all {formatting.spelled(len(rows))} reach the same.")
    top, following, pair = rows[0], rows[1], pair_of(board, rows[0], rows[1])
    level = top.cells[board.ranking].value == following.cells[board.ranking].value
    behind = f"{following.title} " + ("reaches the same" if level else f"is {gap(board, top, following)} behind")
    tied = following.rank_low == 1
    if pair is None:
        return Answer(NEXT, "Not known:", f"{behind}.")
    counts = (
        f"of the same {formatting.plural(pair.n, 'image')} the first wins {pair.only_a:,} and loses {pair.only_b:,}"
    )
    more = list[str]()
    if min(len(top.seeds), len(following.seeds)) > 1:
        more.append("An image is won where more of the seeds are right.")
    line = f"{behind}; {counts}, {p_text(pair)} after correction for {formatting.plural(len(board.pairs), 'pair')}."
    return Answer(NEXT, "Not shown:" if tied else "Yes:", line, (*more, *_beaten(board, rows)))


def _beaten(board: Board, rows: list[Row]) -> list[str]:
    """Say whom the first is shown to be better than, where the second is not among them."""
    if not tied_with_first(rows):
        return []
    top = rows[0]
    beaten = [r.title for r in rows[1:] if (p := pair_of(board, top, r)) and p.p_holm < ALPHA]
    if not beaten:
        return ["The first is not shown to be better than any other."]
    rest = len(beaten) == len(rows) - 2 > 2
    others = f"each of the other {formatting.spelled(len(beaten))}" if rest else formatting.listing(beaten)
    return [f"The first is shown to be better than {others}."]


def _believe(board: Board, rows: list[Row]) -> Answer:
    top, data = rows[0], board.plan.data
    short, line, more = _graded(board, top)
    line += [*_audit(board), *_transferred(board, top)]
    violations = [r.bound_violations for r in board.rows if r.bound_violations is not None]
    if sum(violations):
        line.append(f"{formatting.plural(sum(violations), 'proved bound')} violated")
    elif violations:
        more.append("No proved bound was violated.")
    counts = {len(r.seeds) for r in rows}
    line.append(_seeds(min(counts)) if len(counts) == 1 else "not every defense has all of its seeds yet")
    more += [f"Audited: {top.audit.statement}."] if top.audit else []
    if not data.original:
        line.append(f"{data.name} is not the original set")
        more += [data.note] if data.note else []
    apart = [r.title for r in board.rows if r.rank is None and r.trust not in (Grade.C, Grade.INVALID)]
    if apart and len(apart) < len(board.rows):
        more.append(f"Not ranked: {formatting.listing(apart)}.")
    return Answer(BELIEVE, short, f"{'; '.join(line)}.", tuple(more))


_GRADED = {
    Grade.A: ("Trust A:", "every check passed, its own adaptive attack among them"),
    Grade.B: ("Trust B:", "no check that matters failed"),
    Grade.C: ("Only as an upper bound, trust C:", "a check that matters failed or could not be made"),
    Grade.INVALID: ("No, invalid:", "the measurement itself is broken"),
    None: ("With care:", "trust was not assessed"),
}


def _graded(board: Board, top: Row) -> tuple[str, list[str], list[str]]:
    """Return the best row's grade in short, in words, and what explains it with the rows that have a worse one.

    Args:
        board: all rows.
        top: the best.
    """
    short, words = _GRADED[top.trust]
    who = f" ({top.assessment.who} of {top.title}, its worst)" if top.assessment.who else ""
    more = [f"{reason}." for reason in top.assessment.reasons]
    for grade, what in ((Grade.C, "An upper bound only, below the ranking"), (Grade.INVALID, "Invalid")):
        names = [r.title for r in board.rows if r.trust is grade and r is not top]
        more += [f"{what}: {formatting.listing(names)}."] if names else []
    return short, [words + who], more


def _transferred(board: Board, top: Row) -> list[str]:
    """Say what the other rows' examples, and challenges, broke of the best one beyond its own attack."""
    own, known = top.value(board.ranking_column), top.value(board.best_known())
    column = board.best_known()
    if own is None or known is None or column is None or top.cells[column.name].n != top.cells[board.ranking].n:
        return []
    cell = top.cells[board.ranking]
    challenged = board.lowered_by_challenges(top.defense) / (cell.n * len(cell.by_seed))
    said = [f"accepted challenges cost it {100 * challenged:.1f} points more"] if challenged else []
    if not counts_transfer(column):
        return said
    lost = 100 * (own - known - challenged)
    if lost < 1e-9:
        return ["adversarial images of the others break it no further", *said]
    return [f"adversarial images of the others cost it {lost:.1f} points more: its attack is too weak", *said]


def _audit(board: Board) -> list[str]:
    """Say on how many images the official AutoAttack and ours disagreed, where an audit was run."""
    names = [column.name for column in with_role(board.columns, "audit")]
    cells = [row.cells[name] for row in board.rows for name in names if name in row.cells]
    if not cells:
        return []
    k = nearest(sum(c.value or 0 for c in cells))
    images = formatting.plural(max(c.n for c in cells), "image")
    return [f"the official AutoAttack, on {images} per model, disagreed {formatting.plural(k, 'time')}"]


def _seeds(k: int) -> str:
    """Say what the number of training seeds allows to conclude."""
    if k >= 5:
        return f"{k} trainings each, enough to speak of the method"
    trained = {1: "one training each compares", 2: "two trainings each compare"}.get(k, f"{k} trainings each compare")
    return f"{trained} these models, not the methods"


def _cost(rows: list[Row]) -> Answer:
    top, more = rows[0], list[str]()
    short, line = "Not counted:", "its training was not part of this run."
    if top.train_flops is not None:
        short, line = f"{top.train_flops:.1f}× standard training", "in counted operations"
    elif top.train_cost is not None:
        short, line = f"{top.train_cost:.1f}× standard training", "in time"
    elif top.train_seconds is not None:
        short, line = f"{formatting.duration(top.train_seconds)} of training", "per seed"
    relative = top.train_flops is not None or top.train_cost is not None
    if relative or top.train_seconds is not None:
        line += _cheapest(rows) + "."
    if relative and top.train_seconds is not None:
        more.append(f"Training took {formatting.duration(top.train_seconds)} per seed{_relative_time(top)}.")
    elif top.train_time is not None and top.train_time.doubt:
        more.append(f"No time of training is given, because {top.train_time.doubt}.")
    if top.eval_seconds is not None:
        text = f"Measuring the first took {formatting.duration(top.eval_seconds)} per seed"
        if top.eval_forwards is not None:
            forwards, backwards = formatting.count(top.eval_forwards), formatting.count(top.eval_backwards)
            text += f": {forwards} forward and {backwards} backward passes of one image"
        more.append(text + ".")
    return Answer(COST, short, line, tuple(more))


def _cheapest(rows: list[Row]) -> str:
    """Say which tie with the first costs least, else which other row does, as the rest of a line."""
    top = rows[0]
    counted = all(r.train_flops is not None for r in rows)
    known = [(c, r) for r in rows[1:] if (c := r.train_flops if counted else r.train_cost) is not None]
    if not known or (counted and top.train_flops is None) or (not counted and top.train_cost is None):
        return ""
    ties = [(c, r) for c, r in known if r.rank_low == 1 and top.rank_low == 1]
    cost, row = min(ties or known, key=lambda found: found[0])
    return f"; {row.title}{', which ties with it,' if ties else ', the cheapest of the others,'} costs {cost:.1f}×"


def _relative_time(row: Row) -> str:
    """Return the measured time beside Standard's, as the rest of a sentence; "" without Standard."""
    if row.train_time is None:
        return ""
    if row.train_time.doubt:
        return f"; no ratio of times is given, because {row.train_time.doubt}"
    return f", {row.train_cost:.2f}× standard training"
