"""A run computes anew what was damaged since, says so, and ends in the same numbers; nothing else is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store.store import Store
from tests.bench.store.folders import change

EVALUATIONS = """
[evaluations.accuracy]
limit = 12
[evaluations.pgd_l2]
limit = 12
eps = [0.5]
steps = 2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, write_suite: Callable[..., Path]) -> tuple[Path, Path]:
    from bench.running import pipeline
    from bench.running.prepare import Options

    folder = tmp_path_factory.mktemp("damage")
    suite = write_suite(folder / "tiny.toml", ["vanilla", "standard"], EVALUATIONS, epochs=1)
    result = pipeline.run(Options(str(suite), {"train_limit": 150}, out=folder / "out", quiet=True))
    assert result.code == 0
    return folder / "out", suite


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]) -> Callable[[], Any]:
    shutil.copytree(finished[0], tmp_path / "out")
    return lambda: cli("run", "--suite", finished[1], "--train-limit", 150, "--out", tmp_path / "out")


def examples(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "examples.parquet")


@pytest.mark.parametrize(
    ("sql", "named", "cached"),
    [
        ("UPDATE chunks SET data=zeroblob(50) WHERE cell=(SELECT max(cell) FROM chunks)", "chunk 0 of cell", 5),
        ("UPDATE cells SET info='{}' WHERE kind='evaluation' AND id=(SELECT max(cell) FROM chunks)", "cell ", 5),
        ("UPDATE epochs SET record='{}' WHERE rowid=1", "epoch 1 of cell", 6),
        ("UPDATE plans SET plan='{}'", "plan 1", 6),
        ("UPDATE bindings SET cell='x' WHERE row=1", "the cell of ", 6),
    ],
)
def test_damage_is_computed_anew(
    finished: tuple[Path, Path], run: Callable[[], Any], tmp_path: Path, sql: str, named: str, cached: int
) -> None:
    out = tmp_path / "out"
    change(out, sql)
    done = run()
    assert done.code == 0, done.err
    assert named in done.err
    assert "computed again" in done.err
    assert f"6 cells, {cached} cached" in done.err
    pd.testing.assert_frame_equal(examples(out), examples(finished[0]))


def test_a_damaged_checkpoint_is_3_and_named(run: Callable[[], Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Store.open(out) as store:
        cell = store.cells("train")[0].id
    for path in (out / "weights").glob("*.safetensors"):
        path.unlink()
    (out / "checkpoints").mkdir(exist_ok=True)
    path = out / "checkpoints" / f"{cell}.pt"
    path.write_bytes(b'{"format": 1, "owner": "another", "sha256": ""}\nstate')
    done = run()
    assert done.code == 3
    assert f"{cell}.pt: expected a training checkpoint of this cell, got SHA-256" in done.err
    path.unlink()
    done = run()
    assert done.code == 0, done.err
    assert "its weights are missing, training anew" in done.err
