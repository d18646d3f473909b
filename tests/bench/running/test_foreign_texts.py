"""Texts of included files, whatever they hold, reach store, terminal and page cleaned; the other rows are untouched."""

import csv
import json
import unicodedata

import pandas as pd
import pytest

from bench.core import discovery

FILE = r'''
import torch
from torch import nn
from bench import Column, Recipe, defense, evaluation

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


class Named(Exception):
    pass


Named.__name__ = ESCAPE + "Named"


def broken_loss(model, x, y):
    raise Named("\ud800" + ESCAPE + "x" * 10_000_000)


def named_loss(model, x, y):
    return {ESCAPE + "\ud800 term": nn.functional.cross_entropy(model(x), y)}


def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@defense(source=ESCAPE + "\ud800", recipe=Recipe(epochs=1, batch_size=50, lr=0.1, loss=broken_loss))
def breaks(num_classes, in_shape, backbone):
    return linear(num_classes)


@defense(source="here", recipe=Recipe(epochs=1, batch_size=50, lr=0.1, loss=named_loss), bibtex="@book{" + ESCAPE + "}")
def trains(num_classes, in_shape, backbone):
    return linear(num_classes)


trains.__doc__ = ESCAPE + "<script>\ud800" + "x" * 10_000_000


@evaluation(
    source=ESCAPE,
    columns={
        "=1+1|<b>": Column(ESCAPE + "\ud800", board="=1+1|<b>", heading=ESCAPE, unit="\ud800"),
        "words": Column("Words.", kind="text"),
    },
)
def odd_names(model, x, y, *, seed=0):
    """Return columns with odd names and texts."""
    return {"=1+1|<b>": x.mean((1, 2, 3)), "words": [ESCAPE + "\ud800" + "y" * 100_000] * len(x)}


@evaluation(source="here", columns={"infinite": Column("One is infinite.", board="infinite")})
def infinite(model, x, y, *, seed=0):
    values = x.mean((1, 2, 3))
    values[3] = torch.inf
    return {"infinite": values}


@evaluation(source="here", columns={"fine": Column("Fine.")})
def poisons(model, x, y, *, seed=0):
    return {"fine": x.mean((1, 2, 3)), "label": y}
'''
EVALUATIONS = """
[evaluations.accuracy]
limit = 8
[evaluations.odd_names]
limit = 8
[evaluations.infinite]
limit = 8
[evaluations.poisons]
limit = 8
"""


def is_clean(text):
    return not {unicodedata.category(c) for c in set(text) - {"\n"}} & {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_suite):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_texts.py").write_text(FILE)
    discovery.include(folder / "hostile_texts.py")
    write_suite(folder / "tiny.toml", ["breaks", "trains"], EVALUATIONS, epochs=1)
    return folder


@pytest.fixture
def hostile(folder, cli):
    """Run the suite, or what of it failed, and return the file, the result folder and what was printed."""
    path, out = folder / "hostile_texts.py", folder / "out"
    run = ("run", "--suite", folder / "tiny.toml", "--out", out, "--train-limit", 100, "--include", path)
    return path, out, cli(*run)


def test_the_terminal_gets_lines_that_it_cannot_obey(hostile, cli):
    path, _, done = hostile
    assert done.code == 1
    assert is_clean(done.out)
    assert is_clean(done.err)
    assert len(done.out) + len(done.err) < 50_000
    assert "breaks seed 0: ]0;owned[31mNamed: \ufffd]0;owned[31mxxx" in done.err
    assert "characters)" in done.err
    for kind in ("defenses", "evaluations"):
        for form in ((), ("--json",)):
            listed = cli("list", kind, "--include", path, *form)
            assert listed.code == 0
            assert is_clean(listed.out)
            assert len(listed.out) < 1_000_000  # half of it is our own
    assert "]0;owned" in listed.out


def test_the_board_holds_the_other_cells_and_is_made_again(hostile, cli, tmp_path):
    _, out, _ = hostile
    assert cli("report", "--out", out).code == 0
    sizes = {p.name: p.stat().st_size for p in out.glob("leaderboard.*")}
    assert sizes["leaderboard.html"] < 3_000_000
    for name in ("leaderboard.html", "leaderboard.md", "leaderboard.tex", "leaderboard.csv", "leaderboard.json"):
        text = (out / name).read_text(encoding="utf-8")
        assert is_clean(text), name
    assert "<script>\ufffd" not in (out / "leaderboard.html").read_text(encoding="utf-8")
    with (out / "leaderboard.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert "'=1+1|<b>" in header
    assert {len(row) for row in rows} == {len(header)}
    assert cli("report", "--out", out, "--to", tmp_path, "--columns", "=1+1|<b>").code == 0
    markdown = (tmp_path / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    table = [line.replace("\\|", "") for line in markdown if line.startswith("|")]
    assert {line.count("|") for line in table} == {4}
    assert "owned\\[31m" in table[0], "its heading, inert"
    examples = pd.read_parquet(out / "examples.parquet")
    assert set(examples["words"].dropna().str.len()) == {1000}
    assert set(examples["label"].dropna().astype(int)) <= set(range(10))


def test_values_that_are_not_finite_and_reserved_names_fail_their_cell_alone(hostile):
    _, out, done = hostile
    words = "expected finite numbers, got infinity for 1 of 8 images (first at position 3 of the batch)"
    assert f"trains seed 0: infinite: evaluation infinite: column 'infinite': {words}" in done.err
    assert "trains seed 0: poisons: evaluation poisons: expected a column's name that is not" in done.err
    row = next(r for r in json.loads((out / "leaderboard.json").read_text())["rows"] if r["defense"] == "trains")
    assert row["clean_accuracy"] is not None
    assert row["=1+1|<b>"] is not None


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ('"index": Column("x")', "got 'index'"),
        ('"seed": Column("x")', "got 'seed'"),
        ('"x": Column("x", board="defense")', "got 'defense'"),
        ('"\\x1b[31m": Column("x")', "printable characters"),
        ('"": Column("x")', "1 to 128"),
    ],
)
def test_a_reserved_name_is_refused_when_its_evaluation_registers(cli, tmp_path, column, words):
    path = tmp_path / "reserved_names.py"
    path.write_text(
        "from bench import Column, evaluation\n\n"
        f"@evaluation(source='here', columns={{{column}}})\n"
        "def reserved(model, x, y, *, seed=0):\n    '''Have a reserved name.'''\n"
    )
    done = cli("list", "evaluations", "--include", path)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert is_clean(done.err)
