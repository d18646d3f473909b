"""The figures: what they plot against closed forms, and SVG that is well-formed, themed, inert and deterministic."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.reports import figures, formatting
from bench.reports.board.columns import families, with_role
from bench.reports.board.model import Board
from bench.reports.figures import (
    accuracy_curve,
    cost_against_robustness,
    decision_boundary,
    figure,
    flatness,
    gradient_stability,
    index,
    labels,
    loss_terms,
    palette,
    plot_data,
    svg,
)
from bench.reports.figures.figure import Figure
from bench.reports.formatting import show


@pytest.fixture(scope="module")
def drawn(board: Board) -> dict[str, Figure]:
    return {f.name: f for f in index.draw(board, plot_data.tables(board))}


def test_each_defense_gets_its_rows_wherever_they_stand(board: Board) -> None:
    mixed = board.examples.sample(frac=1, random_state=0).reset_index(drop=True)
    for examples in (board.examples, mixed, board.examples.iloc[:0]):
        found = plot_data.tables(replace(board, examples=examples))
        assert list(found) == [row.defense for row in board.rows]
        for name, table in found.items():
            pd.testing.assert_frame_equal(table, examples[examples["defense"] == name])


def test_every_figure_is_there(drawn: dict[str, Figure]) -> None:
    shipped = ["accuracy-against-eps", "cost", "stability", "curvature", "flatness", "correlation", "training"]
    assert [name for name in drawn if name in shipped] == shipped
    assert len(drawn["stability"].panels) == 8


def test_the_title_of_curvature_against_gradients_follows_the_data(make_board: Callable[..., Board]) -> None:
    """(breaking distance, gradient norm, curvature, cost) of each defense decide the sentence."""
    cases = {
        "The flattest, b, is not the one with the smallest gradients, a": {"a": (1, 1, 9, 1), "b": (1, 9, 1, 1)},
        "The flattest, b, has the smallest gradients too": {"a": (1, 9, 9, 1), "b": (1, 1, 1, 1)},
        "How flat a is, and how large its gradients are": {"a": (1, 1, 1, 1)},
    }
    for title, names in cases.items():
        board = make_board(names=names, seeds=1, n=40)
        assert {f.name: f for f in index.draw(board, plot_data.tables(board))}["curvature"].title == title


def test_numbers_stand_under_their_own_budget(board: Board) -> None:
    """Attacks at different budgets share one table; what was not measured is a dash."""
    columns = list(board.columns)
    family = [c for c in columns if c.name.startswith("pgd_l2_")]
    other = [
        replace(c, name=c.name.replace("pgd_l2", "apgd_l2"), evaluation="apgd_l2", heading="APGD ℓ₂")
        for c in family[1:]
    ]
    rows = [
        replace(r, cells=r.cells | {o.name: r.cells[c.name] for o, c in zip(other, family[1:], strict=True)})
        for r in board.rows
    ]
    rows[0].cells.pop(family[-1].name)
    changed = replace(board, columns=tuple(columns + other), rows=tuple(rows))
    figure = accuracy_curve.accuracy_against_eps(changed, plot_data.tables(changed))
    assert figure is not None
    place = {head: i for i, head in enumerate(figure.header)}
    first, last = (f"ε = {family[i].level:g}, %" for i in (0, -1))
    lines = [tuple(show(entry) for entry in line) for line in figure.numbers]
    found = {(line[0], line[1]): line for line in lines}
    attacks = sorted({line[1] for line in lines})
    assert len(attacks) == 2
    of = {attack: [line for (_, name), line in found.items() if name == attack] for attack in attacks}
    later = next(a for a in attacks if all(line[place[first]] == formatting.MISSING for line in of[a]))
    assert all(line[place[last]] != formatting.MISSING for line in of[later])
    earlier = next(a for a in attacks if a != later)
    assert found[rows[0].defense, earlier][place[last]] == formatting.MISSING
    assert all(len(line) == len(figure.header) for line in lines)


def test_figures_are_well_formed_themed_and_share_no_id(drawn: dict[str, Figure]) -> None:
    ids: list[str] = []
    for found in drawn.values():
        for panel in found.panels:
            root = ElementTree.fromstring(panel.drawing.svg)
            ids += [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
            assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", panel.drawing.svg), "a sentinel colour was left"
            assert "DejaVu" not in panel.drawing.svg
            assert "<style" not in panel.drawing.svg
    assert len(ids) == len(set(ids))


def test_loss_terms_are_drawn_where_there_are_several(board: Board) -> None:
    row = board.rows[0]
    assert loss_terms.loss_terms(board, row) is None
    logs = {
        key: [r | {"terms": {"cross_entropy": r["loss"], "penalty": 0.1 * r["loss"]}} for r in log]
        for key, log in board.logs.items()
    }
    drawn = loss_terms.loss_terms(replace(board, logs=logs), row)
    assert drawn is not None
    last = logs[row.defense, 1][-1]["terms"]
    said = ", ".join(f"{name} {formatting.number(value)}" for name, value in last.items())
    assert drawn.alt == f"Terms of the loss at the last epoch: {said}."
    assert all(f">{name}<" in drawn.panels[0].drawing.svg for name in last)


def test_same_board_same_bytes(board: Board, drawn: dict[str, Figure]) -> None:
    assert index.draw(board, plot_data.tables(board)) == list(drawn.values())


def test_a_defense_has_its_colour_in_every_figure(board: Board, drawn: dict[str, Figure]) -> None:
    slots = {row.anchor: palette.styles(plot_data.names(board))[row.defense].slot for row in board.rows}
    for name in ("accuracy-against-eps", "cost", "curvature", "training"):
        root = ElementTree.fromstring(drawn[name].panels[0].drawing.svg)
        for anchor, slot in slots.items():
            marked = [e for e in root.iter() if e.attrib.get("data-series") == anchor]
            assert marked, (name, anchor)
            used = set(re.findall(r"var\(--c(\d)\)", "".join(ElementTree.tostring(e, "unicode") for e in marked)))
            assert used == {str(slot)}


def test_alt_text_and_numbers_say_the_board(board: Board, drawn: dict[str, Figure]) -> None:
    figure = drawn["accuracy-against-eps"]
    for row in board.rows:
        shown = f"{row.defense} {100 * row.cells['pgd_l2_0.05'].value:.1f} % to"  # type: ignore[operator]
        assert shown in figure.alt
        lines = [tuple(show(entry) for entry in line) for line in figure.numbers]
        (line,) = [line for line in lines if line[0] == row.defense]
        assert line[2:] == tuple(
            f"{100 * row.cells[c].value:.1f}"  # type: ignore[operator]
            for c in ("clean_accuracy", *(f"pgd_l2_{e:g}" for e in (0.05, 0.1, 0.15, 0.2, 0.5)))
        )


@pytest.mark.parametrize("name", ["<b>$x^2$&", 'a" id="x', "b style='font: 9px", "url(#c) > &lt;"])
def test_names_are_text_not_markup_and_not_mathematics(make_board: Callable[..., Board], name: str) -> None:
    board = make_board(names={name: (0.4, 3.0, 30.0, 1.0), "b": (0.3, 3.0, 30.0, 1.0)}, seeds=1, n=40)
    figure = index.draw(board, plot_data.tables(board))[0]
    root = ElementTree.fromstring(figure.panels[0].drawing.svg)
    assert name in [e.text for e in root.iter("text")]
    assert "x" not in [e.attrib.get("id") for e in root.iter()]


@pytest.mark.parametrize("name", ['t" id="y', "a < b & c", "&amp; 'q'"])
def test_headings_of_evaluations_survive_in_figures(board: Board, name: str) -> None:
    columns = tuple(replace(c, heading=name) if c.evaluation == "pgd_l2" else c for c in board.columns)
    drawn = index.draw(replace(board, columns=columns), plot_data.tables(board))
    ids = [
        e.attrib.get("id", "") for f in drawn for p in f.panels for e in ElementTree.fromstring(p.drawing.svg).iter()
    ]
    assert all(set(i) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ") for i in ids)
    assert drawn[0].panels[0].title == f"Under {name}"


def test_a_figure_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: Board) -> None:
    """A file in the folder with the decorator is drawn, in its place; nothing else names it."""
    (tmp_path / "my_figure.py").write_text(
        "from bench.reports.figures.figure import Figure, figure\n"
        "@figure(order=25)\n"
        "def mine(board, tables):\n"
        "    return Figure('mine', 'Mine', '', 'Nothing to see in mine.', ())\n"
    )
    monkeypatch.setattr(figures, "__path__", [*figures.__path__, str(tmp_path)])
    monkeypatch.setattr(figure, "MAKERS", dict(figure.MAKERS))
    monkeypatch.setattr(index, "MAKERS", figure.MAKERS)
    names = [drawn.name for drawn in index.draw(board, plot_data.tables(board))]
    assert names[:3] == ["accuracy-against-eps", "mine", "cost"]


def test_columns_that_were_not_measured_leave_their_figures_out(make_board: Callable[..., Board]) -> None:
    board = make_board(names={"standard": (0.3, 9.0, 41.0, 1.0)}, seeds=1, n=30, evaluations=("accuracy",))
    assert [f.name for f in index.draw(board, plot_data.tables(board))] == ["training"]


def test_a_stored_map_of_the_plane_is_drawn(board: Board) -> None:
    grid = {"probability": [[0.0, 0.2, 1.0], [0.1, 0.6, 1.0], [0.2, 0.9, 1.0]], "extent": [0.0, 1.0, 0.0, 1.0]}
    row = board.rows[0]
    runs = {0: replace(row.runs[0], info={"plane": {"grid": grid}})}
    figure = decision_boundary.decision_boundaries(
        replace(board, rows=(replace(row, runs=runs), *board.rows[1:])), plot_data.tables(board)
    )
    assert figure is not None
    assert figure.panels[0].title == f"{row.defense}, seed 0"
    assert [p.title.split(" for")[0] for p in figure.panels[1:]] == ["Softplus", "Centered softplus"]


# What is plotted


def test_front_of_known_points() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 7.0), (3.0, 7.0), (4.0, 9.0), (1.0, 3.0)]
    assert cost_against_robustness.front(points) == [0, 2, 4]


def test_breaking_distance_is_the_smallest_budget_that_broke(board: Board) -> None:
    table = pd.DataFrame(
        {
            "pgd_l2_0.1_robust": [True, True, False],
            "pgd_l2_0.5_robust": pd.array([True, False, None], dtype="boolean"),
            "autoattack_l2_0.5_robust": [True, False, False],
        }
    )
    assert flatness.breaking_distance(board, table).tolist() == [np.inf, 0.5, 0.1]


def test_breaking_distance_is_missing_where_nothing_was_measured(board: Board) -> None:
    assert np.isnan(flatness.breaking_distance(board, pd.DataFrame({"margin": [1.0]}))).all()


def test_rank_correlation_is_minus_one_where_flat_means_robust(board: Board) -> None:
    name = board.rows[0].defense
    part = board.examples[board.examples["defense"] == name].copy()
    part["margin"] = 100.0 - part["curvature"]
    found = flatness.correlations(board, {**plot_data.tables(board), name: part})
    rho = {(c.flatness.name, c.robustness.name): c.rho for c in found if c.defense == name}
    assert rho["curvature", "margin"] == pytest.approx(-1.0, abs=1e-12)


def test_rank_correlation_agrees_with_pandas(board: Board) -> None:
    row = board.rows[1]
    table = plot_data.tables(board)[row.defense]
    table = table[table["clean_correct"] & table["curvature"].notna()]
    expected = [t["gradient_norm"].corr(t["margin"], method="spearman") for _, t in table.groupby("seed")]
    found = flatness.correlations(board, plot_data.tables(board))
    (ours,) = [
        c for c in found if (c.defense, c.flatness.name, c.robustness.name) == (row.defense, "gradient_norm", "margin")
    ]
    assert ours.rho == pytest.approx(np.mean(expected), abs=1e-12)


def test_curves_are_medians_and_quartiles_of_what_is_there(board: Board) -> None:
    row = board.rows[0]
    table = plot_data.tables(board)[row.defense]
    (family,) = families(with_role(board.columns, "stability"))
    curves = {c.kind: c for c in gradient_stability.curves(board, table, family)}
    assert set(curves) == {"", "worst", "approximation", "bound"}
    values = table["stability_0.03_worst"].dropna()
    for got, q in ((curves["worst"].low, 0.25), (curves["worst"].middle, 0.5), (curves["worst"].high, 0.75)):
        assert got[3] == values.quantile(q, interpolation="nearest")


@pytest.mark.parametrize(
    ("places", "spread"),
    [([0.0, 10.0], [0.0, 10.0]), ([5.0, 5.0], [4.0, 6.0]), ([0.0, 1.0, 9.0], [-0.5, 1.5, 9.0]), ([], [])],
)
def test_labels_are_pushed_apart_and_keep_their_centre(places: list[float], spread: list[float]) -> None:
    assert labels.spread(places, 2.0) == pytest.approx(spread)


def test_labels_never_overlap() -> None:
    places = sorted(np.random.default_rng(0).uniform(0, 30, 14).tolist())
    assert np.diff(labels.spread(places, 3.0)).min() > 3.0 - 1e-9


# SVG and colours


def test_embedding_prefixes_used_ids_and_drops_the_others() -> None:
    source = (
        '<?xml version="1.0"?><svg xmlns="x" viewBox="0 0 9 9"><metadata>m</metadata><defs><clipPath id="c"/></defs>'
        '<g id="unused"><path d="M 1.23456 2.00001" clip-path="url(#c)" style="stroke: #0069b4; fill: #010101"/></g>'
        '<g id="series:lcnn"/></svg>'
    )
    out = svg.embed(source, "fig", {"#0069b4": "var(--c1)"})
    assert 'id="fig-c"' in out
    assert "url(#fig-c)" in out
    assert "unused" not in out
    assert 'd="M 1.23 2"' in out
    assert "stroke:var(--c1);fill:var(--ink)" in out
    assert [e.attrib for e in ElementTree.fromstring(out).iter("g") if "data-series" in e.attrib] == [
        {"data-series": "lcnn"}
    ]


def test_colours_are_fixed_by_name_whatever_else_is_on_the_board() -> None:
    assert palette.styles(["lcnn"])["lcnn"] == palette.styles(["vanilla", "mine", "lcnn"])["lcnn"]


def test_many_defenses_never_share_colour_marker_and_dash() -> None:
    looks = palette.styles(["standard", "lcnn", *(f"mine{k}" for k in range(28))]).values()
    assert len({(s.slot, s.marker, s.dash) for s in looks}) == 30


def stylesheet_colours() -> dict[str, tuple[str, str]]:
    css = resources.files("bench.reports.html").joinpath("templates", "page.css").read_text("utf-8")
    return {name: (day, night) for name, day, night in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", css)}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_have_enough_contrast_day_and_night() -> None:
    colours = stylesheet_colours()
    for theme in (0, 1):
        paper = colours["paper"][theme]
        for name, least in (("ink", 7.0), ("muted", 4.5), ("accent", 4.5), ("bad", 4.5), ("good", 4.5)):
            assert contrast(colours[name][theme], paper) >= least, (name, theme)
        for slot in range(10):
            assert contrast(colours[f"c{slot}"][theme], paper) >= 3.0, (slot, theme)


def test_light_colours_of_page_and_palette_agree() -> None:
    colours = stylesheet_colours()
    looks = palette.styles([f"d{k}" for k in range(10)]).values()
    assert {s.slot: s.colour for s in looks} == {k: colours[f"c{k}"][0] for k in range(10)}


# Machado, Oliveira and Fernandes 2009, severity 1: how the colour-blind see linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", [0, 1])
def test_the_eight_defenses_can_be_told_apart_by_everybody(vision: str, theme: int) -> None:
    colours = [stylesheet_colours()[f"c{slot}"][theme] for slot in range(8)]
    seen = [cielab(np.array(VISIONS[vision]) @ linear(colour)) for colour in colours]
    distances = [np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(distances) > 17  # 2.3 is just noticeable
