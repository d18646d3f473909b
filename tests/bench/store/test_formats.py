"""One stored database of every format that ever landed is read as it was.

The files were written by the bench of their time: `folders.make(out, "a", "b")` on the code of that day, format 1 by
`run --suite digits --defense standard --defense lcnn --seeds 0 --limit 16 --epochs 2 --train-limit 200 --evaluation
pgd_l2 --evaluation accuracy` of commit 00d3b4e. A new format adds a file here.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store import database
from bench.store.store import Store
from tests.bench.store.folders import CHUNKS, EVALUATIONS, change, table_of, weights_of

FORMATS = Path(__file__).with_name("formats")
MADE = range(2, database.FORMAT + 1)  # by `folders.make`
RIGHT = {"standard": 0.375, "lcnn": 0.1875}  # the board that the bench of format 1 made: clean and under every PGD


def stored(number: int, out: Path) -> Path:
    (out / "bench.db").write_bytes(gzip.decompress((FORMATS / f"format-{number}.db.gz").read_bytes()))
    return out


def test_there_is_a_file_of_every_format() -> None:
    assert sorted(p.name for p in FORMATS.iterdir()) == [f"format-{n}.db.gz" for n in range(1, database.FORMAT + 1)]


@pytest.mark.parametrize("number", MADE)
def test_it_is_read_as_it_was(tmp_path: Path, number: int) -> None:
    with Store.open(stored(number, tmp_path)) as store:
        plan = store.plans.latest()
        assert [run.label for run in plan.rows] == ["a seed 0", "b seed 0"]
        assert tuple(plan.evaluations) == EVALUATIONS
        expected = pd.concat([table_of(n) for n in range(CHUNKS)], ignore_index=True)
        for run in plan.rows:
            trained = store.cell(run.train_cell)
            assert trained is not None
            assert trained.seconds == 1.5
            assert [record["epoch"] for record in store.log(run.train_cell)] == [0, 1]
            for key in EVALUATIONS:
                pd.testing.assert_frame_equal(store.table(run.evaluations[key]), expected)
            assert list(store.images(run.evaluations["attack"])["index"]) == [0, 2, 4]
        assert store.drop_damaged() == []


@pytest.mark.parametrize("number", MADE)
def test_the_commands_read_it(cli: Callable[..., Any], tmp_path: Path, number: int) -> None:
    from bench.core.hashing import sha256_of

    out = stored(number, tmp_path)
    (out / "weights").mkdir()
    for defense in ("a", "b"):
        content = weights_of(defense)
        (out / "weights" / f"{sha256_of(content)}.safetensors").write_bytes(content)
    assert cli("store", "check", "--out", out).out == "sound\n"
    assert cli("status", "--out", out).out.endswith("cells: 6, done: 6, running: 0, left: 0, failed: 0\n")


def test_the_board_of_format_1_is_made_again(cli: Callable[..., Any], tmp_path: Path) -> None:
    out = stored(1, tmp_path)
    done = cli("report", "--out", out)
    assert done.code == 0, done.err
    with (out / "leaderboard.csv").open(newline="") as file:
        rows = {row["defense"]: row for row in csv.DictReader(file)}
    names = ["clean_accuracy", *(f"pgd_l2_{eps}" for eps in (0.05, 0.1, 0.15, 0.2, 0.5))]
    assert {defense: [float(row[name]) for name in names] for defense, row in rows.items()} == {
        defense: [value] * len(names) for defense, value in RIGHT.items()
    }
    with Store.open(out) as store:
        assert {len(store.log(run.train_cell)) for run in store.plans.latest().rows} == {2}
        assert store.drop_damaged() == []
    assert cli("status", "--out", out).out.splitlines()[-1].startswith("cells: 6, done: 4, running: 0, left: 2")


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("UPDATE meta SET value='0'", 0),
        ("UPDATE plans SET plan=replace(plan, '\"role\":', '\"unit\":')", 1),  # as plans were before columns had roles
        ("UPDATE plans SET plan='{}'", 1),
    ],
)
def test_what_has_no_way_to_this_format_is_refused_in_one_line_and_left_as_it_is(
    cli: Callable[..., Any], tmp_path: Path, sql: str, number: int
) -> None:
    out = stored(1, tmp_path)
    change(out, sql)
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db:
        before = list(db.iterdump())
    for command in (("status",), ("report",), ("store", "check"), ("store", "repair")):
        done = cli(*command, "--out", out)
        assert done.code == 6
        assert f"expected store format {database.FORMAT}, got {number}, written by an older bench" in done.err
        assert len(done.err.strip().splitlines()) == 1
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db:
        assert list(db.iterdump()) == before
