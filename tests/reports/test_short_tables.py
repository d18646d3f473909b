"""LaTeX and Markdown in short, training curves as CSV, and drawings as files."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UsageError
from bench.reports import formatting, write
from bench.reports.board.model import Board
from bench.reports.exports.latex import latex_text
from bench.reports.exports.markdown import markdown_text
from bench.reports.exports.short_table import short_cell, short_columns
from bench.reports.exports.training_csv import training_csv
from bench.reports.figures import figure_files
from bench.reports.figures.drawing import PRINTED

PDFLATEX = shutil.which("pdflatex")


def cells(text: str, name: str) -> list[str]:
    """Return the cells of a defense's line, of a table in LaTeX or Markdown."""
    split = [[c.strip() for c in re.split(r" ?[&|] ?", line.strip("| "))] for line in text.splitlines()]
    return next(line for line in split if name in line[1:2])


def test_the_main_columns_are_what_a_paper_shows(board: Board) -> None:
    assert [c.column.name for c in short_columns(board)] == [
        "clean_accuracy", "autoattack_l2_0.5", "curvature", "train_flops", "trust",
    ]  # fmt: skip


def test_the_best_is_bold_and_what_ties_with_it_is_marked(board: Board) -> None:
    tied = [row.defense for row in board.rows if row.rank_low == 1]
    assert len(tied) > 1
    column = board.ranking_column
    assert column is not None
    for k, row in enumerate(board.rows):
        shown = f"{100 * (row.cells[column.name].value or 0.0):.1f}"
        line = cells(markdown_text(board), row.defense)
        assert line[3].startswith(f"**{shown}** " if k == 0 else f"{shown}† " if row.defense in tied else f"{shown} ")
        line = cells(latex_text(board), row.defense.replace("_", r"\_"))
        mark = r"$^\dagger$" if row.defense in tied[1:] else ""
        assert line[3].startswith(rf"\textbf{{{shown}}}" if k == 0 else shown + mark)
        low, high = (
            formatting.percent(end, row.n) for end in (row.cells[column.name].low, row.cells[column.name].high)
        )
        assert rf"{{\scriptsize [{low}, {high}]}}" in line[3]
    flattest = min(board.rows, key=lambda r: r.value(board.first("curvature")) or 0.0)
    assert short_cell(board, flattest, next(c for c in board.columns if c.name == "curvature")).best


def test_columns_are_chosen_by_their_names(board: Board) -> None:
    chosen = replace(board, chosen=("stability_0.1", "pgd_l2_0.1", "train_seconds"))
    head = markdown_text(chosen).splitlines()[2]
    assert head.split(" | ")[2:] == ["Stability, radius = 0.1", "PGD ℓ₂, ε = 0.1, %", "Training time |"]
    with pytest.raises(UsageError, match=r"--columns: expected columns of leaderboard\.csv, got 'curvatur'\. Did you"):
        short_columns(replace(board, chosen=("curvatur",)))


def test_an_unknown_column_is_said_before_anything_is_written(tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path, fabricate.make_plan(evaluations=("accuracy", "pgd_l2")))
    with pytest.raises(UsageError, match="got 'nothing'"):
        write(tmp_path, columns=("nothing",))
    assert not list(tmp_path.glob("leaderboard.*"))


def every(board: Board) -> tuple[str, ...]:
    return tuple(column.name for column in board.columns if column.evaluation)


def test_a_wide_table_is_scaled_and_a_narrow_one_is_not(board: Board) -> None:
    assert r"\resizebox{\textwidth}" in latex_text(replace(board, chosen=every(board)))
    few = latex_text(replace(board, chosen=("clean_accuracy", "curvature")))
    assert r"\resizebox" not in few
    assert r"\small" in few
    assert few.count(r"\label{tab:digits-digits}") == 1
    assert few.index(r"\caption") < few.index(r"\label") < few.index(r"\toprule")


@pytest.mark.skipif(PDFLATEX is None, reason="no LaTeX is installed")
@pytest.mark.parametrize("columns", ["main", "few", "all"])
def test_latex_compiles_within_the_text(make_board: Callable[..., Board], tmp_path: Path, columns: str) -> None:
    names = dict.fromkeys(("standard", "100% & #1_$x^2~{}", "adversarial_training"), (0.5, 3.0, 30.0, 1.0))
    board = make_board(names=names, seeds=3, n=60)
    chosen = {"main": (), "few": ("clean_accuracy", "pgd_l2_0.1"), "all": every(board)}[columns]
    text = latex_text(replace(board, chosen=chosen))
    whole = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{text}\end{{document}}"
    (tmp_path / "t.tex").write_text(whole)
    done = subprocess.run(
        [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "t.log").read_text(errors="replace")


def test_training_curves_hold_every_epoch_and_term(board: Board) -> None:
    text = training_csv(board)
    assert text is not None
    lines = list(csv.DictReader(io.StringIO(text)))
    assert list(lines[0])[:3] == ["defense", "seed", "epoch"]
    assert len(lines) == sum(map(len, board.logs.values()))
    for (defense, seed), log in list(board.logs.items())[:3]:
        mine = [line for line in lines if (line["defense"], line["seed"]) == (defense, str(seed))]
        assert [float(line["loss"]) for line in mine] == [record["loss"] for record in log]
        assert [float(line["term_cross_entropy"]) for line in mine] == [r["terms"]["cross_entropy"] for r in log]
    assert training_csv(replace(board, logs={})) is None


def test_drawings_are_files_that_stay_the_same(make_board: Callable[..., Board], tmp_path: Path) -> None:
    names = {"standard": (0.3, 9.0, 41.0, 1.0), "lcnn": (0.5, 3.0, 4.0, 1.2)}
    board = make_board(names=names, seeds=1, n=40)
    paths = figure_files.write_figures(board, tmp_path / "a")
    again = figure_files.write_figures(board, tmp_path / "b")
    assert [p.name for p in paths] == [p.name for p in again]
    assert {p.suffix for p in paths} == {".pdf", ".png", ".svg"}
    assert len({p.stem for p in paths}) == len(paths) / 3
    for a, b in zip(paths, again, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    for path in (p for p in paths if p.suffix == ".svg"):
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert not [colour for colour in PRINTED if colour in text], "a colour that the page's theme decides was left"
    assert (tmp_path / "a" / "cost.pdf").read_bytes().startswith(b"%PDF")
    cost: Any = np.asarray(Image.open(tmp_path / "a" / "cost.png").convert("RGB"))
    assert cost.shape[1] > 1500
    assert cost[0, 0].tolist() == [255, 255, 255]
    training = (tmp_path / "a" / "training-loss.svg").read_text(encoding="utf-8")
    assert "Training loss" in training, "its title"
    assert ">lcnn<" in training, "its legend"


def test_only_those_who_ask_wait_for_files(tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path, fabricate.make_plan(evaluations=("accuracy", "pgd_l2")))
    write(tmp_path)
    assert not (tmp_path / "figures").exists()
    page = (tmp_path / "leaderboard.html").read_bytes()
    write(tmp_path, figures=True)
    assert list((tmp_path / "figures").glob("*.pdf"))
    assert (tmp_path / "leaderboard.html").read_bytes() == page
