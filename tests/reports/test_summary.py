"""The answers on top of the page: in plain words, computed from the board, honest about what is not shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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


def test_summary_says_tie_when_paired_tests_do_not_separate(board: Board) -> None:
    first, second = board.rows[:2]
    assert second.rank_low == 1
    found = answers(board)
    assert found["Which is best?"].short == f"{first.defense}, in a tie"
    assert found["Is it really better than the next?"].short == "No, not shown"
    assert f"{second.defense} could hold first place as well." in found["Which is best?"].sentences


def test_summary_says_yes_when_they_do(board: Board) -> None:
    rows = (replace(board.rows[0], rank_high=1), replace(board.rows[1], rank_low=2), *board.rows[2:])
    rows = (*rows[:2], *(replace(r, rank_low=max(2, r.rank_low or 2)) for r in rows[2:]))
    found = answers(replace(board, rows=rows))
    assert found["Is it really better than the next?"].short == "Yes"
    assert found["Which is best?"].short == rows[0].defense


def test_headline_says_who_by_what_how_far_and_whether_resolved(board: Board) -> None:
    first, second = board.rows[:2]
    cell, other = first.cells[board.ranking], second.cells[board.ranking]
    pair = next(p for p in board.pairs if (p.a, p.b) == (first.defense, second.defense))
    lead = f"{100 * (cell.value - other.value):.1f} points"  # type: ignore[operator]
    text = top.headline(board).replace("\u00a0", " ")
    assert text == (
        f"{first.defense} ranks first by AutoAttack ℓ₂ at ε = 0.5: {100 * cell.value:.1f} % "  # type: ignore[operator]
        f"[{100 * cell.low:.1f}, {100 * cell.high:.1f}]; its lead over {second.defense}, "  # type: ignore[operator]
        f"{lead}, is not resolved (p = {formatting.p_value(pair.p_holm)}, n = 200)."
    )
    html = page.render(board)
    assert html.index(f'<p class="headline">{top.headline(board)}</p>') < html.index('<table id="ranking">')
    sure = tuple(replace(p, p_holm=1e-6) for p in board.pairs)
    assert "is resolved (p < 0.0001, n = 200)." in top.headline(replace(board, pairs=sure)).replace("\u00a0", " ")


def test_summary_counts_the_images_that_decide_and_says_how_to_repeat(board: Board) -> None:
    pair = board.pairs[0]
    text = " ".join(answers(board)["Is it really better than the next?"].sentences).replace("\u00a0", " ")
    assert f"On the same 200 images it wins {pair.only_a} and loses {pair.only_b}: p = " in text
    assert "after correction for 28 pairs, too weak to tell them apart." in text
    again = top.repeat(board)
    assert "on x86-64, 2 cores, with bench 0.1.0 at commit 7f0b8a4 with local changes" in again
    seconds = sum(f.training["cpu_seconds"] + 9.5 * len(f.info) for r in board.rows for f in r.runs.values())
    assert formatting.duration(seconds) in again


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
        told.append(" ".join(answers(replace(board, rows=rows))["Can I believe it?"].sentences))
        table = plot_data.tables(board)[best.defense]
        told.append(" ".join(defense_section(replace(board, rows=rows), rows[0], table, Sprite()).belief))
    assert "broke nothing that its own attack had not" in told[0]
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


def test_an_incomplete_run_says_so_on_top(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1, failed=("cure",))
    assert top.unfinished(board) == ["This run is incomplete: 1 cell failed."]
    assert '<strong class="unfinished">This run is incomplete: 1 cell failed.</strong>' in page.render(board)
    cure = next(r for r in board.rows if r.defense == "cure")
    assert cure.unranked == "incomplete: 0 of 1 seed (autoattack_l2 missing)"
    later = (*board.rows[:-1], replace(cure, failures=(), missing=("a", "b")))
    assert top.unfinished(replace(board, rows=later)) == ["This run is incomplete: 2 not finished."]


def test_summary_is_honest_about_trust_seeds_and_data(make_board: Callable[..., Board]) -> None:
    board = make_board(seeds=1, n=60, trust=False, data_name="digits-jpeg", data_original=False, data_note="A copy.")
    belief = answers(board)["Can I believe it?"]
    assert belief.short == "With care: trust was not assessed"
    text = " ".join(belief.sentences)
    assert "trained once" in text
    assert "digits-jpeg, not the original set. A copy." in text
