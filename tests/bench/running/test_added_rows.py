"""Adding a row adds a row: what earlier commands measured alike stays on the board, and new rows read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import Column, evaluation
from bench.core import discovery, registry
from bench.reports import write
from bench.running import pipeline
from bench.running.describe import plan_record
from bench.running.prepare import Options, prepare
from bench.running.verification.board import check_board
from bench.running.verification.findings import Verification
from bench.store.garbage import find_garbage
from bench.store.store import Store
from tests.bench.store.folders import copied

EVALUATIONS = """
[evaluations.accuracy]
limit = 40
[evaluations.autoattack_l2]
eps = [0.5]
steps = 2
n_queries = 4
limit = 8
"""
NEW = '''
import bench
from bench import Recipe
from bench.models.backbones import Layers, build


@bench.defense(source="mine", recipe=Recipe())
def mine(num_classes, in_shape, backbone):
    """Train as standard does."""
    return build(backbone, num_classes, in_shape, Layers())
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_suite) -> tuple[Path, Path]:
    """Return a suite and a result folder of two of its rows; tests add rows to it in their order of names."""
    place = tmp_path_factory.mktemp("added")
    return write_suite(place / "tiny.toml", ["standard", "vanilla"], EVALUATIONS, epochs=1), place / "out"


def board_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "leaderboard.csv").set_index("defense")


def test_a_new_row_stands_beside_those_of_earlier_commands(cli: Callable[..., Any], folder, tmp_path):
    suite, out = folder
    mine = tmp_path / "mine.py"
    mine.write_text(NEW)
    always = ("run", "--suite", suite, "--out", out, "--train-limit", 200, "--quiet")
    assert cli(*always).code == 0
    first = board_of(out)
    added = cli(*always, "--include", mine, "--defense", "mine")
    assert added.code == 0, added.err
    assert "3 rows, 2 of them from earlier commands" in " ".join(added.out.split())
    board = board_of(out)
    assert sorted(board.index) == ["mine", "standard", "vanilla"]
    assert board["rank"].notna().all(), "a row that is new is ranked: the examples of the others were tried on it"
    assert board["best_known_l2_0.5"].notna().all()
    for name in first.index:
        assert board.loc[name, "autoattack_l2_0.5"] == first.loc[name, "autoattack_l2_0.5"]
    plan = cli(*always, "--include", mine, "--defense", "mine", "--dry-run")
    assert plan.out.splitlines()[-1] == "cells: 4, cached: 4", plan.out
    with Store.open(out) as store:
        new = next(run for run in store.plans.latest().rows if run.defense == "mine")
        cell = store.cell(new.evaluations["transfer_l2"])
    assert set(cell.spec["inputs"]["others adversarial"]) == {"standard seed 0", "vanilla seed 0"}

    again = cli(*always)
    assert again.code == 0
    assert sorted(board_of(out).index) == ["mine", "standard", "vanilla"], "an older command keeps the newer row"
    assert cli(*always, "--dry-run").out.splitlines()[-1] == "cells: 8, cached: 8"
    with Store.open(out) as store:
        assert {run.defense for run in store.plans.latest().rows} == {"standard", "vanilla"}
        others = store.cell(store.plans.latest().rows[0].evaluations["transfer_l2"]).spec["inputs"]
    assert set(others["others adversarial"]) == {"vanilla seed 0", "mine seed 0"}, "its examples lower theirs as well"

    _narrow_and_compare(cli, out)
    _rows_that_differ_stand_aside(cli, out, always)
    _garbage_and_packs_know_every_row(cli, out, (*always, "--include", mine, "--defense", "mine"))


def _narrow_and_compare(cli: Callable[..., Any], out: Path) -> None:
    narrowed = cli("report", "--out", out, "--defense", "mine", "--defense", "vanilla")
    assert sorted(board_of(out).index) == ["mine", "vanilla"], narrowed.err
    assert cli("report", "--out", out, "--only").code == 0
    assert sorted(board_of(out).index) == ["standard", "vanilla"]
    assert cli("report", "--out", out, "--defense", "lcnn").err.startswith("--defense: expected a row of the board")
    assert cli("report", "--out", out).code == 0
    compared = cli("compare", "--out", out, "mine", "vanilla")
    assert compared.code == 0, "a row of another command can be compared"
    assert "also on the board, from earlier commands: mine" in cli("status", "--out", out).out


def _rows_that_differ_stand_aside(cli: Callable[..., Any], out: Path, always: tuple[object, ...]) -> None:
    fewer = cli(*always, "--defense", "standard", "--epochs", 2)
    assert fewer.code == 0
    said = " ".join(fewer.out.split())
    assert "Not shown: vanilla, mine: it was trained with epochs 1, not 2." in said
    assert board_of(out).index.tolist() == ["standard"]

    only = cli(*always, "--defense", "vanilla", "--only")
    assert only.code == 0
    assert board_of(out).index.tolist() == ["vanilla"]
    assert cli("report", "--out", out).code == 0
    assert board_of(out).index.tolist() == ["vanilla"], "what a command asked for is remembered"


def _garbage_and_packs_know_every_row(cli: Callable[..., Any], out: Path, again: tuple[object, ...]) -> None:
    with Store.open(out) as store:
        database = store._database
        garbage = find_garbage(database)
        needed = {store.cell(run.train_cell).info["weights"] for run in store.plans.board(1).plan.rows}
    assert not {path.name for path in garbage.files} & {f"{sha256}.safetensors" for sha256 in needed}

    assert cli(*again).code == 0
    packed = out.with_name("packed")
    assert cli("results", "pack", "--out", out, "--to", packed).code == 0
    assert cli("results", "unpack", packed, "--out", out.with_name("back")).code == 0
    assert sorted(board_of(out.with_name("back")).index) == ["mine", "standard", "vanilla"]


def test_a_narrowed_report_is_verified_as_what_it_says_it_is(weakly_attacked, tmp_path):
    out = copied(weakly_attacked, tmp_path / "out")
    write(out, defenses=["lcnn"])
    found = Verification()
    with Store.open(out) as store:
        check_board(store, out, found)
        assert not found.findings
        assert found.notes == ["leaderboard.json: the report was narrowed to lcnn; places are among these"]
        whole = (out / "leaderboard.json").read_text()
        for forged in (None, {"defenses": ["standard"], "only": False}, {"defenses": ["none"], "only": False}):
            (out / "leaderboard.json").write_text(json.dumps(json.loads(whole) | {"narrowed": forged}))
            check_board(store, out, found := Verification())
            assert found.findings, forged


def test_two_commands_at_once_each_show_their_own_page(
    write_suite: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command plans the folder while the first one computes: the first one's page is of the first one."""
    discovery.discover()
    monkeypatch.setattr(registry.evaluations, "_entries", dict(registry.evaluations._entries))
    out, others = tmp_path / "out", list[int]()

    @evaluation(source="here", columns={"mean_pixel": Column("Mean of an image.")})
    def meanwhile(model, x, y, *, seed=0):
        """Have another command plan its rows."""
        if not others:
            with Store.open(out) as store:
                others.append(store.plans.put(plan_record(prepare(second))))
        return {"mean_pixel": x.flatten(1).mean(1)}

    text = "[evaluations.meanwhile]\nlimit = 4\n"
    suite = write_suite(tmp_path / "tiny.toml", ["standard", "vanilla"], text, epochs=1)
    first, second = (
        Options(str(suite), {"train_limit": 60, "defenses": (name,)}, out=out, quiet=True, command=f"bench run {name}")
        for name in ("standard", "vanilla")
    )
    done = pipeline.run(first)
    assert others, "the other command came between"
    assert [row.defense for row in done.board.rows] == ["standard"]
    assert list(board_of(out).index) == ["standard"]
    assert json.loads((out / "manifest.json").read_text())["command"] == "bench run standard"
    pipeline.run(second)
    assert set(board_of(out).index) == {"standard", "vanilla"}
    assert json.loads((out / "manifest.json").read_text())["command"] == "bench run vanilla"


def test_a_row_that_was_alone_stays_ranked_beside_one_that_is_added(cli: Callable[..., Any], write_suite, tmp_path):
    """The first had no row whose examples could be tried on it: that is no evaluation that it lacks."""
    suite, out = write_suite(tmp_path / "tiny.toml", ["standard", "vanilla"], EVALUATIONS, epochs=1), tmp_path / "out"
    always = ("run", "--suite", suite, "--out", out, "--train-limit", 200, "--quiet")
    for name in ("standard", "vanilla"):
        assert cli(*always, "--defense", name).code == 0
    with Store.open(out) as store:
        plans = {run.defense: run.evaluations for run in store.plans.board(1).plan.rows}
    assert {name for name, cells in plans.items() if "transfer_l2" in cells} == {"vanilla"}
    board = board_of(out)
    assert board["rank"].notna().all(), board
    assert board["best_known_l2_0.5"].notna().to_dict() == {"vanilla": True, "standard": False}
    assert cli(*always, "--defense", "standard").code == 0
    assert board_of(out)["best_known_l2_0.5"].notna().all(), "the same command again tries the newer row's examples"
