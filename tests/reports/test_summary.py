"""The verdict and the answers on top of the page: plain words from the board, nothing twice, honest about doubts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.core.records import Column
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board
from bench.reports.figures import plot_data
from bench.reports.html import answers as page_answers
from bench.reports.html import headline as top
from bench.reports.html import page
from bench.reports.html.defense_section import defense_section
from bench.reports.html.sprite import Sprite


def answers(board: Board) -> dict[str, page_answers.Answer]:
    return {a.question: a for a in page_answers.summary(board)}


def whole(answer: page_answers.Answer) -> str:
    return f"{answer.short} {answer.line}".replace("\u00a0", " ")


def clear(board: Board) -> Board:
    """Return the board as if the first were told apart from all others."""
    rows = tuple(replace(r, rank_low=1 if k == 0 else max(2, r.rank_low or 2)) for k, r in enumerate(board.rows))
    return replace(board, rows=rows, pairs=tuple(replace(p, p_holm=1e-6) for p in board.pairs))


def test_the_verdict_is_one_sentence_with_a_tie_said_once(board: Board) -> None:
    first, second = board.rows[:2]
    cell = first.cells[board.ranking]
    tied = [r.defense for r in board.rows[1:] if r.rank_low == 1]
    assert tied == [second.defense]
    text = top.headline(board).replace("\u00a0", " ")
    assert text == (
        f"{first.defense} ranks first by AutoAttack ℓ₂ at ε = 0.5: {100 * cell.value:.1f} % "  # type: ignore[operator]
        f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}], tied with {second.defense}."  # type: ignore[operator]
    )
    html = page.render(board)
    assert html.index(f'<p class="headline">{top.headline(board)}</p>') < html.index('<table id="ranking"')


def test_the_verdict_names_the_lead_where_there_is_one_and_counts_many_ties(board: Board) -> None:
    first, second = board.rows[:2]
    lead = 100 * ((first.cells[board.ranking].value or 0) - (second.cells[board.ranking].value or 0))
    assert top.headline(clear(board)).endswith(f", {lead:.1f} points ahead of {second.defense}.")
    rows = tuple(replace(r, rank_low=1 if k < 5 else r.rank_low) for k, r in enumerate(board.rows))
    assert top.headline(replace(board, rows=rows)).endswith(", tied with four other defenses.")
    rows = tuple(replace(r, rank_low=1) for r in board.rows)
    assert top.headline(replace(board, rows=rows)).endswith(", tied with every other defense.")


def test_one_sentence_says_why_a_lead_is_not_shown(board: Board) -> None:
    pair, following = board.pairs[0], board.rows[1]
    found = whole(answers(board)[page_answers.NEXT])
    assert found == (
        f"Not shown: {following.defense} is {100 * pair.difference:.1f} points behind; of the same 200 images "
        f"the first wins {pair.only_a} and loses {pair.only_b}, p = {formatting.p_value(pair.p_holm)} "
        "after correction for 28 pairs."
    )
    assert "An image is won where more of the seeds are right." in answers(board)[page_answers.NEXT].more
    assert whole(answers(clear(board))[page_answers.NEXT]).startswith("Yes: ")
    assert "p < 0.0001" in whole(answers(clear(board))[page_answers.NEXT])


def test_titles_stand_for_code_names(make_board: Callable[..., Board]) -> None:
    names = {"lcnn:beta0=2": (0.5, 9.0, 4.0, 1.1), "standard": (0.3, 9.0, 41.0, 1.0)}
    board = make_board(n=40, seeds=1, names=names, row_title="A network", row_link="https://example.org/p")
    text = top.headline(board) + whole(answers(board)[page_answers.NEXT])
    assert "A network (beta0=2)" in text
    assert "lcnn" not in text
    html = page.render(board)
    row = re.search(r'<tr id="row-.*?</tr>', html, re.S)
    assert row is not None
    assert "A network (beta0=2)</a>" in row[0]
    assert "<code>lcnn:beta0=2</code>" in row[0]
    assert '<a href="https://example.org/p" rel="noreferrer">paper</a>' in row[0]


def test_transferred_examples_are_told(board: Board) -> None:
    best = board.rows[0]
    cell, name = best.cells[board.ranking], "best_known_l2_0.5"
    known = BoardColumn(
        name, Column("", role="best_known", params={"norm": "l2", "eps": 0.5}, interval="wilson"), "transfer_l2"
    )
    board = replace(board, columns=(*board.columns, known))
    told = []
    for lost in (0.0, 0.05):
        cells = {**best.cells, name: replace(cell, value=(cell.value or 0) - lost)}
        rows = (replace(best, cells=cells), *board.rows[1:])
        told.append(answers(replace(board, rows=rows))[page_answers.BELIEVE].line)
        table, sprite = plot_data.tables(board)[best.defense], Sprite()
        told.append(" ".join(defense_section(replace(board, rows=rows), rows[0], table, sprite).belief))
    assert "adversarial images of the others break it no further" in told[0]
    assert "broke nothing more" in told[1]
    assert "cost it 5.0 points more: its attack is too weak" in told[2]
    assert "broke 20 images more" in told[3]


def test_summary_without_a_ranking_names_the_best_clean_accuracy(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1, evaluations=("accuracy", "curvature"))
    best = max(board.rows, key=lambda r: r.cells["clean_accuracy"].value or 0)
    text = top.headline(board)
    assert text.startswith(
        "Nothing is ranked. The suite runs no attack that could rank. Without an attack the best is "
    )
    assert best.defense in text
    assert list(answers(board)) == [page_answers.BELIEVE, page_answers.COST]


def test_an_unfinished_run_says_on_top_how_far_it_is(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1, failed=("cure",))
    cells = 8 * (1 + len(board.plan.evaluations))
    assert top.unfinished(board) == f"{cells - 1} of {cells} cells done, 1 failed. Places may still change."
    html = page.render(board)
    assert f"<strong>This run is not finished:</strong> {top.unfinished(board)}" in html
    cure = next(r for r in board.rows if r.defense == "cure")
    assert cure.unranked == "incomplete: 0 of 1 seed (autoattack_l2 missing)"


def test_a_finished_run_has_no_banner(board: Board) -> None:
    assert top.unfinished(board) == ""
    assert 'class="banner"' not in page.render(board)


def test_summary_is_honest_about_trust_seeds_and_data(make_board: Callable[..., Board]) -> None:
    board = make_board(seeds=1, n=60, trust=False, data_name="digits-jpeg", data_original=False, data_note="A copy.")
    belief = answers(board)[page_answers.BELIEVE]
    assert whole(belief).startswith("With care: trust was not assessed; ")
    assert "one training each" in belief.line
    assert "digits-jpeg is not the original set" in belief.line
    assert "A copy." in belief.more


@pytest.mark.parametrize("seeds", [1, 5])
def test_few_seeds_speak_of_models_and_five_of_the_method(make_board: Callable[..., Board], seeds: int) -> None:
    names = {"standard": (0.3, 9.0, 41.0, 1.0), "lcnn": (0.5, 9.0, 4.0, 1.1)}
    line = answers(make_board(n=40, seeds=seeds, names=names))[page_answers.BELIEVE].line
    assert ("enough to speak of the method" in line) == (seeds == 5)


def test_the_cost_is_that_of_the_first_and_of_its_cheapest_tie(board: Board) -> None:
    first, second = board.rows[:2]
    line = whole(answers(board)[page_answers.COST])
    assert line.startswith(f"{first.train_flops:.1f}× standard training in counted operations; ")
    assert f"{second.defense}, which ties with it, costs {second.train_flops:.1f}×." in line
    least = min(board.rows[1:], key=lambda r: r.train_flops or 9)
    assert f"{least.defense}, the cheapest of the others, costs" in whole(answers(clear(board))[page_answers.COST])


def test_nothing_is_said_twice(board: Board) -> None:
    """No sentence of the first screen, of the text behind it and of the table's caption occurs again."""
    html = page.render(board)
    part = html[html.index('id="summary"') : html.index("</p>", html.index('id="ranking-note"'))]
    words = re.sub(r"<thead.*?</thead>|<script.*?</script>|<form.*?</form>", "", part, flags=re.S)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", words))
    sentences = [s.strip() for s in re.split(r"(?<=[.;?])\s", text) if len(s.split()) > 4]
    assert len(sentences) > 8
    assert len(sentences) == len(set(sentences))
    interval = re.search(r"\[[\d.]+,\s*[\d.]+\]", page.render(board))
    assert interval is not None
    assert part.count(interval[0]) == 1
