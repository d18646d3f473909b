"""The whole curve of robust accuracy: the share of images that no known change up to ε breaks, for every ε."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.core.records import Column
from bench.reports.board.model import Board
from bench.reports.figures import breaking_curve, plot_data
from bench.reports.html import page

PARAMS = {"norm": "l2", "attack": "fmn", "eps": 0.5}


def searched(board: Board, limit: int = 150) -> tuple[Board, np.ndarray]:
    """Return the board with a minimal-norm attack on the first images, and what it found, per line of the table."""
    examples, rng = board.examples.copy(), np.random.default_rng(0)
    found = np.exp(rng.normal(-0.7, 0.6, len(examples)))
    found[rng.random(len(examples)) < 0.05] = np.nan  # nothing met
    found[examples["clean_correct"].to_numpy() == 0] = np.nan  # not attacked
    first = (examples["index"] < limit).to_numpy()
    robust = np.where(np.isnan(found), examples["clean_correct"].to_numpy() == 1, found > 0.5).astype(float)
    examples["fmn_l2_0.5_nearest"] = np.where(first, found, np.nan)
    examples["fmn_l2_0.5_robust"] = np.where(first, robust, np.nan)
    examples["fmn_l2_0.5_distance"] = np.where(first & (examples["clean_correct"] == 0), 0.0, np.nan)
    facts = {
        "nearest": Column("Nearest.", role="breaking", params=PARAMS),
        "robust": Column("Robust.", kind="flag", role="robust", params=PARAMS),
        "distance": Column("Distance.", role="distance", params=PARAMS),
    }
    named = {f"fmn_l2_0.5_{name}": column for name, column in facts.items()}
    origins = {**board.origins, **dict.fromkeys(named, "fmn_l2")}
    return replace(board, examples=examples, facts={**board.facts, **named}, origins=origins), found


def test_there_is_none_without_a_minimal_norm_attack(board: Board) -> None:
    assert breaking_curve.robust_accuracy_at_every_budget(board, plot_data.tables(board)) is None


def test_a_curve_counts_the_smallest_change_of_any_attack(board: Board) -> None:
    board, found = searched(board)
    for row in board.rows:
        mine = (board.examples["defense"] == row.defense).to_numpy() & (board.examples["index"] < 150).to_numpy()
        sizes = breaking_curve.smallest_changes(board, plot_data.tables(board)[row.defense])
        assert sizes is not None
        assert (sizes.images, len(sizes.sizes)) == (150, mine.sum())
        other = board.examples["autoattack_l2_0.5_distance"].to_numpy()[mine]
        wrong = board.examples["clean_correct"].to_numpy()[mine] == 0
        expected = np.where(wrong, 0.0, np.fmin(np.fmin(found[mine], np.inf), np.fmin(other, np.inf)))
        assert sizes.sizes == pytest.approx(np.sort(expected))
        for eps in (0.0, 0.2, 0.5, 1.0):
            assert sizes.unbroken(eps) == pytest.approx((expected > eps).mean())
        assert sizes.unbroken(0.0) == pytest.approx(1 - wrong.mean())
        assert sizes.median is not None
        assert sizes.unbroken(sizes.median) <= 0.5 <= sizes.unbroken(sizes.median - 1e-9) + 1e-9


def test_the_figure_says_within_which_change_half_of_the_images_break(board: Board) -> None:
    board, _ = searched(board)
    tables = plot_data.tables(board)
    figure = breaking_curve.robust_accuracy_at_every_budget(board, tables)
    assert figure is not None
    medians = {line[0].value: line[1].value for line in figure.numbers}
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    assert f"({low}) to " in figure.title
    assert figure.title.endswith(f"({high})")
    assert "150 test images" in figure.caption
    assert "upper bound" in figure.caption
    assert len(figure.panels) == 1
    assert figure.panels[0].narrow is not None
    html = page.render(board)
    assert 'id="figure-breaking-curve"' in html


def test_images_that_nothing_breaks_have_no_median() -> None:
    sizes = breaking_curve.Sizes(np.array([0.1, np.inf, np.inf]), 3)
    assert sizes.median is None
    assert sizes.unbroken(10) == pytest.approx(2 / 3)
