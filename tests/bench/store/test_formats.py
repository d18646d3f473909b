"""One stored database of every format that ever landed: it is read as it was, or refused in one line.

The files were written by the bench of their time: `folders.make(out, "a", "b")` on the code of that day, format 1 by a
script of the same kind. A new format adds a file here.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store import database
from bench.store.store import Store
from tests.bench.store.folders import CHUNKS, EVALUATIONS, table_of, weights_of

FORMATS = Path(__file__).with_name("formats")
READ, REFUSED = (2, 3), (1,)


def stored(number: int, out: Path) -> Path:
    (out / "bench.db").write_bytes(gzip.decompress((FORMATS / f"format-{number}.db.gz").read_bytes()))
    return out


def test_there_is_a_file_of_every_format() -> None:
    assert sorted(p.name for p in FORMATS.iterdir()) == [f"format-{n}.db.gz" for n in range(1, database.FORMAT + 1)]
    assert sorted((*READ, *REFUSED)) == [*range(1, database.FORMAT + 1)]


@pytest.mark.parametrize("number", READ)
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


@pytest.mark.parametrize("number", READ)
def test_the_commands_read_it(cli: Callable[..., Any], tmp_path: Path, number: int) -> None:
    from bench.core.hashing import sha256_of

    out = stored(number, tmp_path)
    (out / "weights").mkdir()
    for defense in ("a", "b"):
        content = weights_of(defense)
        (out / "weights" / f"{sha256_of(content)}.safetensors").write_bytes(content)
    assert cli("store", "check", "--out", out).out == "sound\n"
    assert cli("status", "--out", out).out.endswith("cells: 6, done: 6, running: 0, left: 0, failed: 0\n")


@pytest.mark.parametrize("number", REFUSED)
def test_it_is_refused_in_one_line_and_left_as_it_is(cli: Callable[..., Any], tmp_path: Path, number: int) -> None:
    out = stored(number, tmp_path)
    before = (out / "bench.db").read_bytes()
    for command in (("status",), ("report",), ("store", "check"), ("store", "repair")):
        done = cli(*command, "--out", out)
        assert done.code == 6
        assert f"expected store format {database.FORMAT}, got {number}, written by an older bench" in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert (out / "bench.db").read_bytes() == before
