"""The exported files: exact columns, same numbers everywhere, recomputable, deterministic, harmless."""

from __future__ import annotations

import copy
import csv
import functools
import io
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench.core import files
from bench.core.records import Grade
from bench.reports import write
from bench.reports.board.build import build
from bench.reports.board.model import Board
from bench.reports.board.row_trust import RowTrust
from bench.reports.exports import latex, leaderboard, model_info, robustbench, writer
from bench.reports.exports.terminal import board_table
from bench.store.store import Store

CONTRACT = [
    "rank", "rank_low", "rank_high", "defense", "seeds", "n",
    "clean_accuracy", "clean_accuracy_low", "clean_accuracy_high", "pgd_l2_0.05", "pgd_l2_0.1", "pgd_l2_0.5",
    "autoattack_l2_0.5", "autoattack_l2_0.5_low", "autoattack_l2_0.5_high", "stability_0.01", "stability_0.1",
    "gradient_norm", "hessian_norm", "curvature", "bound_violations",
    "train_flops", "train_seconds", "train_cost", "eval_seconds", "eval_forwards", "eval_backwards",
    "title", "architecture", "parameters", "venue", "year", "link",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, fabricate: ModuleType) -> Path:
    """A finished folder with its exports."""
    out = tmp_path_factory.mktemp("exports")
    fabricate.make_store(out, fabricate.make_plan())
    writer.write_exports(board_of(out), out)
    return out


def board_of(out: Path) -> Board:
    with Store.open(out) as store:
        return build(store)


def contents(out: Path) -> dict[str, bytes]:
    """Return every file of a folder but the store's."""
    paths = [p for p in sorted(out.rglob("*")) if p.is_file() and not p.name.startswith("bench.db")]
    return {str(p.relative_to(out)): p.read_bytes() for p in paths}


def csv_lines(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "leaderboard.csv").read_text(encoding="utf-8"))))


def test_csv_has_the_columns_of_the_contract_and_full_precision(folder: Path) -> None:
    lines = csv_lines(folder)
    assert list(lines[0]) == CONTRACT
    for row, line in zip(board_of(folder).rows, lines, strict=True):
        assert line["defense"] == row.defense
        assert (line["rank"], line["seeds"], line["n"]) == (str(row.rank), "2", "120")
        for name, cell in row.cells.items():
            assert float(line[name]) == cell.value
        assert float(line["autoattack_l2_0.5_low"]) == row.cells["autoattack_l2_0.5"].low
        assert float(line["train_cost"]) == row.train_cost
        assert line["eval_forwards"] == str(row.eval_forwards)


def test_page_terminal_and_files_say_the_same_interval_and_n(tmp_path: Path, fabricate: ModuleType) -> None:
    """Also where the columns are on different images: one cell of the board is the only source."""
    short = {"autoattack_l2": {"evaluation": "autoattack_l2", "limit": 64}}
    fabricate.make_store(tmp_path, fabricate.make_plan(evaluations=("accuracy", "pgd_l2"), **short))
    board = write(tmp_path)
    data, html = json.loads((tmp_path / "leaderboard.json").read_text()), (tmp_path / "leaderboard.html").read_text()
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(board_table(board))
    terminal, tex = console.export_text(), (tmp_path / "leaderboard.tex").read_text()
    name = board.ranking
    for row, line, entry in zip(board.rows, csv_lines(tmp_path), data["rows"], strict=True):
        cell = row.cells[name]
        assert cell.low is not None
        assert [float(line[k]) for k in (name, f"{name}_low", f"{name}_high")] == [cell.value, cell.low, cell.high]
        assert [entry["cells"][name][k] for k in ("value", "low", "high", "n")] == [cell.value, cell.low, cell.high, 64]
        assert (line["n"], row.n, row.cells["clean_accuracy"].n) == ("64", 64, 120)
        value, low, high = (f"{100 * v:.0f}" for v in (cell.value, cell.low, cell.high))  # type: ignore[operator]
        part = html[html.index(f'id="row-{row.anchor}"') :]
        shown = re.search(rf'data-column="{name}".*?"value">([^<]*)<.*?"interval">([^<]*)<', part, re.S)
        assert shown is not None
        assert shown.groups() == (value, f"{low}–{high}")
        assert f"{value} [{low}, {high}]" in next(x for x in terminal.splitlines() if f"│ {row.defense} " in x)
        assert f"{value}" in next(x for x in tex.splitlines() if x.split(" & ")[1:2] == [latex.latex(row.defense)])


def test_frame_is_the_csv(folder: Path) -> None:
    frame = leaderboard.leaderboard_frame(board_of(folder))
    table = pd.read_csv(folder / "leaderboard.csv").dropna(axis="columns", how="all")  # nothing is known of the papers
    assert set(frame.columns) - set(table.columns) == {"venue", "year", "link"}
    pd.testing.assert_frame_equal(frame[table.columns].astype(table.dtypes), table)


def test_every_number_is_recomputed_from_the_examples(
    tmp_path: Path, fabricate: ModuleType, recompute: ModuleType, recompute_ranks: ModuleType
) -> None:
    train = {"curvature_train": {"evaluation": "curvature", "split": "train", "limit": 60}}
    short = {"autoattack_l2": {"evaluation": "autoattack_l2", "limit": 64}}
    plan = fabricate.make_plan(evaluations=("accuracy", "pgd_l2", "stability", "curvature", "bounds"), **short, **train)
    fabricate.make_store(tmp_path, plan)
    write(tmp_path)
    assert recompute.check(tmp_path) == []
    assert recompute_ranks.check(tmp_path) == []
    # The scripts see a wrong number: in the JSON, as the page sorts it, as the page shows it, a place, a p.
    data, html = json.loads((tmp_path / "leaderboard.json").read_text()), (tmp_path / "leaderboard.html").read_text()
    for path in (("cells", "pgd_l2_0.1", "high"), ("cells", "train_curvature", "by_seed", "0"), ("rank_low",)):
        wrong = copy.deepcopy(data)
        functools.reduce(dict.__getitem__, path[:-1], wrong["rows"][0])[path[-1]] += 1e-3
        (tmp_path / "leaderboard.json").write_text(json.dumps(wrong))
        assert len(recompute.check(tmp_path) + recompute_ranks.check(tmp_path)) == 1
    data["pairs"][0]["p_holm"] *= 0.999
    (tmp_path / "leaderboard.json").write_text(json.dumps(data))
    assert len(recompute_ranks.check(tmp_path)) == 1
    curvature = re.search(r'data-column="curvature" data-sort="[^"]*"[^>]*>\s*<span class="value">([^<]*)', html)
    assert curvature is not None
    (tmp_path / "leaderboard.html").write_text(html.replace(f">{curvature[1]}</span>", ">9.99</span>", 1))
    assert len(recompute.check(tmp_path)) == 1


def test_board_as_parquet_and_the_archive_hold_the_files_beside_them(folder: Path) -> None:
    board = board_of(folder)
    table = pd.read_parquet(folder / "leaderboard.parquet")
    pd.testing.assert_frame_equal(table, leaderboard.leaderboard_frame(board), check_dtype=False)
    with zipfile.ZipFile(io.BytesIO(robustbench.archive(board))) as packed:
        assert packed.namelist()
        for name in packed.namelist():
            assert packed.read(name) == (folder / name).read_bytes()


def test_same_store_same_bytes(folder: Path, tmp_path: Path, fabricate: ModuleType) -> None:
    before = contents(folder)
    writer.write_exports(board_of(folder), folder)
    assert contents(folder) == before
    fabricate.make_store(tmp_path, fabricate.make_plan())
    writer.write_exports(board_of(tmp_path), tmp_path)
    assert contents(tmp_path) == before
    assert {"leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex", "examples.parquet"} <= set(
        before
    )


def test_nothing_temporary_is_left_and_a_failed_write_keeps_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    assert not [name for name in before if name.endswith(".tmp")]

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(files.MachineError, match="No space left"):
        writer.write_exports(board_of(folder), folder)
    assert contents(folder) == before


def test_json_says_the_same_with_seeds_intervals_and_n(folder: Path) -> None:
    text = (folder / "leaderboard.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    data = json.loads(text)
    board = board_of(folder)
    assert data["ranking"] == "autoattack_l2_0.5"
    assert [c["name"] for c in data["columns"]] == [c.name for c in board.columns]
    for entry, row in zip(data["rows"], board.rows, strict=True):
        assert [entry[k] for k in CONTRACT] == [leaderboard.row_record(row, board.columns)[k] for k in CONTRACT]
        cell = entry["cells"]["pgd_l2_0.1"]
        assert cell["by_seed"] == {str(s): v for s, v in row.cells["pgd_l2_0.1"].by_seed.items()}
        assert cell["low"] < cell["value"] < cell["high"]
        assert (cell["n"], cell["about"], cell["seed_sd"]) == (120, "these trained models", None)
        seeds = list(row.cells[board.ranking].by_seed.values())
        assert entry["variance"]["training"] == pytest.approx((seeds[0] - seeds[1]) ** 2 / 2)
        assert entry["variance"]["attack"] is None
        assert 0 < entry["variance"]["images"] < 0.25 / 119
    assert len(data["pairs"]) == 6


def test_parquet_reads_back(folder: Path) -> None:
    table = pd.read_parquet(folder / "examples.parquet")
    assert list(table.columns[:4]) == ["defense", "seed", "index", "label"]
    pd.testing.assert_frame_equal(table, board_of(folder).examples)
    assert not (folder / "examples_train.parquet").exists()


def test_markdown_and_latex_have_a_line_per_row(folder: Path) -> None:
    lines = (folder / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    heads = ["rank", "defense", "Clean accuracy, %", "AutoAttack ℓ₂, ε = 0.5, %"]
    assert lines[2].strip("| ").split(" | ")[:4] == heads
    board = board_of(folder)
    assert len(lines) >= 4 + 4
    best = 100 * (board.rows[0].cells["autoattack_l2_0.5"].value or 0.0)
    assert f"| **{best:.1f}** \\[" in lines[4]
    tex = (folder / "leaderboard.tex").read_text(encoding="utf-8")
    body = tex.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines()
    head = next(line for line in tex.splitlines() if line.startswith("Rank"))
    assert len(body) == 4
    assert {line.count(" & ") for line in [*body, head]} == {lines[2].count(" | ")}
    assert "lcnn:lambda\\_beta=0.01" in tex
    assert f"{100 * board.rows[0].cells['clean_accuracy'].value:.1f}" in body[0]


def test_latex_shows_the_spread_from_three_seeds_on(tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path, fabricate.make_plan(seeds=(0, 1, 2), evaluations=("accuracy", "pgd_l2")))
    board = board_of(tmp_path)
    body = latex.latex_text(board).partition("\\midrule")[2]
    assert body.count("$\\pm$") == 4 * 2, "clean accuracy and the column that ranks, of four rows"


def test_model_info_has_robustbench_keys(folder: Path) -> None:
    info = json.loads((folder / "model_info/digits/L2/lcnn.json").read_text())
    assert list(info) == [
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
        "eps", "clean_acc", "reported", "autoattack_acc", "external", "footnote", "unreliable",
    ]  # fmt: skip
    row = next(row for row in board_of(folder).rows if row.defense == "lcnn")
    assert info["autoattack_acc"] == f"{100 * row.cells['autoattack_l2_0.5'].value:.2f}"
    assert (info["eps"], info["dataset"], info["unreliable"]) == ("0.5", "digits", None)
    assert len(list((folder / "model_info/digits/L2").iterdir())) == 4


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (0.1, "0.1"), (128 / 255, "128/255"), (1.0, "1")]
)
def test_model_info_writes_budgets_as_robustbench_does(tmp_path: Path, eps: float, text: str) -> None:
    path = model_info.write_model_info(tmp_path, "cifar10", "Linf", "../../Evil name", 0.9, 0.5, eps)
    assert path.parent == tmp_path / "cifar10" / "Linf"
    assert json.loads(path.read_text())["eps"] == text


def test_model_info_takes_the_paper_from_bibtex() -> None:
    bibtex = """@inproceedings{someone2022,
      title  = {A {Title}},
      author = {One, Some and Other Fran{\\c{c}}ois Body},
      booktitle = "Some Conference",
      year = {2022},
      url = {https://example.org/paper}
    }"""
    assert robustbench.paper_of(bibtex, "One et al. 2022") == {
        "link": "https://example.org/paper",
        "authors": "Some One, Other Francois Body",
        "venue": "Some Conference, 2022",
    }
    assert robustbench.paper_of("", "a paper") == {"link": "", "authors": "a paper", "venue": ""}


def test_manifest_names_command_data_and_every_cell(folder: Path, fabricate: ModuleType) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["command"] == "python -m bench run --suite digits"
    assert manifest["environment"]["commit"] == "c" * 40
    assert manifest["data"]["test"]["fingerprint"] == "b" * 64
    assert len(manifest["rows"]) == 8
    row = next(r for r in manifest["rows"] if (r["defense"], r["seed"]) == ("lcnn", 1))
    assert row["train_cell"] == fabricate.name_of("train", "lcnn", 1)
    assert row["evaluations"]["pgd_l2"]["cell"] == fabricate.name_of("pgd_l2", "lcnn", 1)
    assert row["evaluations"]["pgd_l2"]["status"] == "done"
    assert manifest["seconds"]["kind"].startswith("CPU time")
    assert manifest["seconds"]["evaluation"] == pytest.approx(4 * 6 * (2.5 + 3.5))


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\x1b[31mred\x07", "[bold]x[/bold]", "a|b", "a\nb", "</script>", "a,b\"c'"]


def test_hostile_names_stay_inert(tmp_path: Path, fabricate: ModuleType) -> None:
    names = dict.fromkeys(HOSTILE, 0.3)
    plan = fabricate.make_plan(names, seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    fabricate.make_store(tmp_path, plan, distances=names)
    board = board_of(tmp_path)
    writer.write_exports(board, tmp_path)
    cells = [line["defense"] for line in csv_lines(tmp_path)]
    assert len(cells) == len(HOSTILE)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@")) or not cell.isprintable()]
    assert "'=1+1" in cells
    lines = (tmp_path / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    assert lines[4 + len(HOSTILE) :] == ["", "† not told apart from the best (95 %, Holm over all pairs)."]
    assert {line.replace("\\|", "").count("|") for line in lines[4 : 4 + len(HOSTILE)]} == {lines[2].count("|")}
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(board_table(board))
    text = console.export_text()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x[/bold]" in text
    info = [p.relative_to(tmp_path / "model_info" / "digits" / "L2") for p in (tmp_path / "model_info").rglob("*.json")]
    assert len(info) == len(HOSTILE)
    assert all(len(p.parts) == 1 for p in info)


def test_terminal_board_says_why_a_row_is_not_ranked(folder: Path) -> None:
    board = board_of(folder)
    bad = replace(
        board.rows[0],
        rank=None,
        assessment=RowTrust(Grade.INVALID, violated=2),
        unranked="invalid: 2 proved bounds violated",
        failures=("accuracy, seed 0: NaN",),
    )
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(board_table(replace(board, rows=(*board.rows[1:], bad))))
    text = console.export_text()
    assert "invalid: 2 proved bounds violated" in text
    assert "accuracy, seed 0: NaN" in text
    assert "autoattack_l2_0.5 %" in text
    assert " 2–3 " in text
    assert "(2–3)" not in text, "a place is written as everywhere"
