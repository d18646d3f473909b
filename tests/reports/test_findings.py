"""What the figures say in their titles, computed by hand; where their curves are dotted, and where their labels go."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from bench.core.records import Column
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.figures import accuracy_curve, cost_against_robustness, flatness, index, labels, plot_data
from bench.reports.figures.figure import Figure
from bench.reports.figures.flatness import Correlation, Target
from bench.reports.figures.flatness_against_robustness import finding as across_finding
from bench.reports.figures.gradient_stability import finding as stability_finding
from bench.reports.figures.level_axis import level_axis
from bench.reports.figures.rank_correlation import finding as correlation_finding

SPACE = "\u00a0"


@pytest.fixture(scope="module")
def drawn(board: Board) -> dict[str, Figure]:
    return {f.name: f for f in index.draw(board, plot_data.tables(board))}


def with_values(board: Board, column: str, values: list[float]) -> Board:
    """Return the board's first rows with other values in a column, and no other rows."""
    rows = [
        replace(row, cells={**row.cells, column: replace(row.cells[column], value=value)})
        for row, value in zip(board.rows, values, strict=False)
    ]
    return replace(board, rows=tuple(rows))


def test_the_curve_says_who_keeps_most_and_how_close_all_start(board: Board) -> None:
    names = [row.defense for row in board.rows]
    changed = with_values(with_values(board, "pgd_l2_0.5", [0.2, 0.7, 0.4]), "pgd_l2_0.05", [0.95, 0.91, 0.9])
    family = tuple(c for c in changed.columns if c.name in ("pgd_l2_0.05", "pgd_l2_0.5"))
    assert accuracy_curve.finding(changed, family) == (
        f"At ε{SPACE}={SPACE}0.5, {names[1]} keeps 70.0{SPACE}%, {names[0]} 20.0{SPACE}%; "
        f"at ε{SPACE}={SPACE}0.05 all lie within 5.0 points"
    )
    leading = with_values(changed, "pgd_l2_0.05", [0.9, 0.95, 0.9])
    assert f"70.0{SPACE}% and leads at every smaller budget, {names[0]}" in accuracy_curve.finding(leading, family)
    level = with_values(board, "pgd_l2_0.5", [0.5, 0.5])
    assert accuracy_curve.finding(level, family) == f"At ε{SPACE}={SPACE}0.5, every defense keeps 50.0{SPACE}%"


def test_the_cost_says_what_the_most_robust_costs(make_board: Callable[..., Board]) -> None:
    """(breaking distance, gradient norm, curvature, cost) of each defense decide the sentence."""
    board = make_board(names={"standard": (0.3, 9, 41, 1.0), "b": (0.9, 3, 30, 2.5)}, seeds=2, n=60)
    figure = cost_against_robustness.cost_against_robustness(board, plot_data.tables(board))
    assert figure is not None
    assert re.fullmatch(
        r"The most robust, b \(\d+.%\), costs 2\.5.× what standard does, which reaches \d+.%", figure.title
    )
    board = make_board(names={"standard": (0.3, 9, 41, 1.0), "b": (0.9, 3, 30, 0.5)}, seeds=2, n=60)
    figure = cost_against_robustness.cost_against_robustness(board, plot_data.tables(board))
    assert figure is not None
    assert figure.title.endswith("is the cheapest to train")


def test_seeds_that_cost_differently_spread_to_the_sides(board: Board) -> None:
    rows = []
    for row in board.rows:
        runs = {
            s: replace(run, training={**run.training, "flops_per_image": 1e6 * (1 + s)}) for s, run in row.runs.items()
        }
        rows.append(replace(row, runs=runs, train_flops=3.0))
    figure = cost_against_robustness.cost_against_robustness(replace(board, rows=tuple(rows)), {})
    assert figure is not None
    assert "cheapest seed" in figure.caption
    assert [str(v) for v in figure.numbers[0][1:4]] == ["3.00", "2.00", "4.00"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rho", "text"),
    [
        (-0.45, f"Flatter is not shown to be more robust: ρ{SPACE}={SPACE}−0.45 for curvature across eight defenses"),
        (-0.95, f"Flatter is more robust: ρ{SPACE}={SPACE}−0.95 for curvature across eight defenses"),
        (0.95, f"Flatter is less robust: ρ{SPACE}={SPACE}0.95 for curvature across eight defenses"),
        (None, "Too few defenses to say whether flatness goes with robustness: 8"),
    ],
)
def test_flatness_across_defenses_is_called_shown_only_where_it_is(rho: float | None, text: str) -> None:
    assert across_finding([("Curvature", rho), ("Gradient norm", 0.1 if rho else None)], 8) == text


@pytest.mark.parametrize(("rho", "answer"), [(-0.7, "Yes: ρ"), (-0.4, "Partly: ρ"), (0.1, "No: ρ")])
def test_flatness_over_images_is_answered_by_the_median(rho: float, answer: str) -> None:
    column = BoardColumn("curvature", Column(""), "curvature", heading="Curvature")
    found = [Correlation(f"d{k}", column, Target("margin"), value, 9) for k, value in enumerate((0.9, rho, rho, -1.0))]
    assert f"{answer}{SPACE}={SPACE}" in correlation_finding(found)


def test_p_of_a_rank_correlation_is_scipys() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 9))
    expected = spearmanr(a, b)
    assert flatness.rank_p(float(expected[0]), 9) == pytest.approx(float(expected[1]), abs=1e-9)
    assert flatness.rank_p(1.0, 9) == 0.0


def test_stability_names_both_ends(board: Board) -> None:
    column = next(c for c in board.columns if c.name == "stability_0.1")
    rows = [
        replace(row, cells={"stability_0.1": Cell(v)}) for row, v in zip(board.rows, (0.5, 0.02, 0.1), strict=False)
    ]
    names = [row.defense for row in rows]
    assert stability_finding(rows, column) == (
        f"When an image is moved by 0.1, the gradient of {names[1]} changes by 2.00{SPACE}%, "
        f"that of {names[0]} by 50.0{SPACE}%"
    )


def test_figures_of_the_papers_interest_are_folded(drawn: dict[str, Figure]) -> None:
    assert [name for name, figure in drawn.items() if not figure.folded] == ["accuracy-against-eps", "cost"]


# Curves


def test_a_span_far_wider_than_the_usual_step_is_shortened() -> None:
    axis = level_axis([0.0, 0.05, 0.1, 0.15, 0.2, 0.5])
    assert axis.unmeasured == ((0.2, 0.5),)
    assert [axis.places[e] for e in (0.0, 0.05, 0.2)] == pytest.approx([0, 1, 4])
    assert axis.places[0.5] == pytest.approx(5.7)
    assert axis.part([0.0, 0.1, 0.2, 0.5]) == [[0.0, 0.1, 0.2], [0.5]]
    assert level_axis([0.0, 0.1, 0.25]).unmeasured == ()
    assert level_axis([0.0, 0.03]).places == {0.0: 0.0, 0.03: pytest.approx(1.0)}


def strokes(svg: str, anchor: str) -> list[str]:
    """Return the styles of the paths of a series."""
    groups = [g for g in ElementTree.fromstring(svg).iter("g") if g.get("data-series") == anchor]
    return [path.get("style", "") for group in groups for path in group.iter("path")]


def test_only_the_unmeasured_span_is_dotted(board: Board, drawn: dict[str, Figure]) -> None:
    curve, small = drawn["accuracy-against-eps"].panels
    for row in board.rows:
        assert sum("stroke-dasharray" in style for style in strokes(curve.drawing.svg, row.anchor)) == 1
        assert not any("stroke-dasharray" in style for style in strokes(small.drawing.svg, row.anchor))
    keys = drawn["accuracy-against-eps"].keys
    assert [key.words for key in keys] == [
        "nothing measured between ε = 0.2 and 0.5; axis shortened there",
        f"AutoAttack ℓ₂ at ε{SPACE}={SPACE}0.5",
    ]
    assert keys[1].shape == "ring"


def test_small_screens_have_a_drawing_without_room_for_names(board: Board, drawn: dict[str, Figure]) -> None:
    for name in ("accuracy-against-eps", "cost"):
        for panel in drawn[name].panels:
            assert panel.narrow is not None
            root = ElementTree.fromstring(panel.narrow.svg)
            assert float(root.attrib["width"]) <= 358, "a phone of 390 pixels shows it at its own size"
            assert not {row.defense for row in board.rows} & {e.text for e in root.iter("text")}
    sizes = {
        size
        for figure in drawn.values()
        for panel in figure.panels
        for drawing in (panel.drawing, panel.narrow)
        if drawing is not None
        for size in re.findall(r"font-size:([\d.]+)px", drawing.svg)
    }
    assert sizes <= {"12", "11.5"}, "text is one size in all figures; names of defenses hardly smaller"


# Labels


def overlap(a: labels.Box, b: labels.Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def test_labels_cover_no_mark_and_no_other_label() -> None:
    points = [(100.0, 100.0), (102.0, 104.0), (101.0, 96.0), (300.0, 200.0), (595.0, 100.0)]
    marks = [(x - 8, y - 8, x + 8, y + 8) for x, y in points]
    found = labels.place(points, [(80.0, 14.0)] * 5, marks, (0, 0, 600, 300))
    for k, box in enumerate(found):
        assert not any(overlap(box, other) for other in [*marks, *found[:k]])
        assert 0 <= box[0] < box[2] <= 600
    assert found[3][0] == 309, "right of its point where there is room"


def names_in(board: Board, panel: Figure) -> list[tuple[float, float, str]]:
    rows: list[Row] = list(board.rows)
    root = ElementTree.fromstring(panel.panels[0].drawing.svg)
    wanted = {row.defense for row in rows}
    found = [(e.get("x"), e.get("y"), e.text) for e in root.iter("text") if e.text in wanted]
    return [(float(x or 0), float(y or 0), text or "") for x, y, text in found]


def test_names_stand_in_the_order_of_their_curves_and_clear_of_each_other(
    board: Board, drawn: dict[str, Figure]
) -> None:
    found = names_in(board, drawn["accuracy-against-eps"])
    ranked = sorted(board.rows, key=lambda r: -(r.value(next(c for c in board.columns if c.name == "pgd_l2_0.5")) or 0))
    assert [text for *_, text in sorted(found, key=lambda f: f[1])] == [row.defense for row in ranked]
    heights = sorted(y for _, y, _ in found)
    assert np.diff(heights).min() > 11
