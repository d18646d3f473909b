"""The page's table: real names, scales of the bars, sets of columns, and remarks where numbers do not compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bench.core.records import Column
from bench.reports.board.model import Board
from bench.reports.board.parts import Cell
from bench.reports.figures import plot_data
from bench.reports.html import page
from bench.reports.html.presets import presets
from bench.reports.html.ranking_table import TableColumn, table_cell, table_columns
from bench.reports.html.remarks import remarks


def column(board: Board, name: str) -> TableColumn:
    return next(c for c in table_columns(board) if c.name == name)


def html_row(html: str, anchor: str) -> str:
    found = re.search(rf'<tr id="row-{anchor}".*?</tr>', html, re.S)
    assert found is not None
    return found[0]


def test_a_row_says_what_it_is_where_its_paper_is_and_how_large(make_board: Callable[..., Board]) -> None:
    facts = {"title": "A network", "link": "https://example.org/p", "venue": "NeurIPS", "year": 2022}
    board = make_board(n=40, seeds=1, **{f"row_{k}": v for k, v in facts.items()})
    row = html_row(page.render(board), "lcnn")
    assert ">A network</a>" in row
    assert "<code>lcnn</code>" in row
    assert '<a href="https://example.org/p" rel="noreferrer">NeurIPS 2022</a>' in row
    assert "9.42 k parameters" in row


def test_without_a_title_the_code_name_stands_once(board: Board) -> None:
    row = html_row(page.render(board), "cure")
    assert row.count(">cure<") == 1
    assert "<code>" not in row


def test_a_hostile_link_becomes_none(make_board: Callable[..., Board]) -> None:
    html = page.render(make_board(n=40, seeds=1, row_link="javascript:alert(1)", row_venue="V", row_year=2020))
    assert "javascript:" not in html_row(html, "cure")


def test_every_mean_over_images_has_an_interval_and_a_bar_on_a_scale(board: Board) -> None:
    html = page.render(board)
    for name in ("curvature", "gradient_norm", "stability_0.1"):
        for row in board.rows:
            cell = row.cells[name]
            assert cell.low is not None
            assert cell.high is not None
            assert cell.low < (cell.value or 0) < cell.high
            bar = table_cell(row, column(board, name)).bar
            assert bar is not None
            assert 0 <= bar.low < bar.value < bar.high <= 100
        head = re.search(rf'<th scope="col" data-column="{re.escape(name)}".*?</th>', html, re.S)
        assert head is not None
        low, high = column(board, name).scale or ("", "")
        assert f'<span class="scale" aria-hidden="true"><span>{low}</span><span>{high}</span></span>' in head[0]
        assert "&nbsp;↓" in head[0]


@pytest.mark.parametrize(
    ("ends", "scale"),
    [((4.5, 38.8), ("0", "40")), ((30.2, 38.8), ("30", "39")), ((0.07, 0.24), ("0", "0.25")),
     ((5.0, 5.0), ("5", "5.5")), ((-3.0, 8.0), ("-5", "10")), ((1e-9, 3e-9), ("0", "3e-09"))],
)  # fmt: skip
def test_a_scale_ends_on_round_numbers_and_begins_at_zero_where_that_is_near(
    board: Board, ends: tuple[float, float], scale: tuple[str, str]
) -> None:
    first = board.rows[0]
    cells = {**first.cells, "curvature": Cell(ends[0], *ends, n=9)}
    assert column(replace(board, rows=(replace(first, cells=cells),)), "curvature").scale == scale


def test_sets_of_columns_are_those_that_the_board_has(board: Board, make_board: Callable[..., Board]) -> None:
    found = {preset.name: preset for preset in presets(table_columns(board))}
    assert list(found) == ["main", "table1", "robust", "cost", "all"]
    assert found["table1"].columns == ("clean_accuracy", "gradient_norm", "hessian_norm", "curvature")
    assert {"autoattack_l2_0.5", "pgd_l2_0.05", "clean_accuracy", "trust"} <= set(found["robust"].columns)
    assert "curvature" not in found["robust"].columns
    assert {board.ranking, "train_flops", "eval_seconds", "parameters"} <= set(found["cost"].columns)
    bare = make_board(n=40, seeds=1, evaluations=("accuracy", "pgd_l2"))
    assert [preset.name for preset in presets(table_columns(bare))] == ["main", "robust", "cost", "all"]


def test_columns_that_say_nothing_wait_to_be_chosen(board: Board) -> None:
    """Time where operations were counted, violations where there are none."""
    assert column(board, "train_flops").shown
    assert not column(board, "train_cost").shown
    assert not column(board, "bound_violations").shown
    uncounted = replace(board, rows=tuple(replace(r, train_flops=None) for r in board.rows))
    assert column(uncounted, "train_cost").shown
    violated = replace(board, rows=(replace(board.rows[0], bound_violations=2), *board.rows[1:]))
    assert column(violated, "bound_violations").shown


def test_a_saturated_loss_and_kinks_are_remarked_where_they_count(board: Board) -> None:
    name, kinked = "vanilla", "bounds_not_applicable"
    examples = board.examples.copy()
    mine = examples["defense"] == name
    examples.loc[mine, "gradient_norm"] = np.where(np.arange(mine.sum()) % 8 == 0, 3.0, 0.001)
    examples[kinked] = np.where(mine, "Relu", "")
    facts = {kinked: Column("", kind="text", role="not_applicable", heading="Bounds")}
    origins = {**board.origins, kinked: "bounds"}
    board = replace(board, examples=examples, facts={**board.facts, **facts}, origins=origins)
    saturated, kinks = remarks(board, plot_data.tables(board))
    assert (saturated.sign, saturated.columns, saturated.defenses) == ("†", ("gradient_norm",), (name,))
    assert "a small mean is no sign of robustness" in saturated.words
    assert (kinks.sign, kinks.columns, kinks.defenses) == ("‡", ("hessian_norm", "curvature"), (name,))
    assert "not twice differentiable (Relu)" in kinks.words
    html = page.render(board)
    assert html.count('<sup class="sign">†</sup>') == 1
    assert html.count('<sup class="sign">‡</sup>') == 2
    assert '<sup class="sign">†</sup>' in html_row(html, name)
    assert f'<span class="remark">† {saturated.words}</span>' in html


def test_a_board_where_everything_compares_has_no_remark(board: Board) -> None:
    assert remarks(board, plot_data.tables(board)) == []
    assert 'class="sign"' not in page.render(board)
