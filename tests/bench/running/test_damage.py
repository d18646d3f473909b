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
def run(finished: tuple[Path, Path], tmp_path: Path, cli: Callable[..., Any]) -> Callable[..., Any]:
    shutil.copytree(finished[0], tmp_path / "out")
    command = ("run", "--suite", finished[1], "--train-limit", 150, "--out", tmp_path / "out")
    return lambda *more: cli(*command, *more)


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


def test_a_damaged_checkpoint_is_named_and_its_training_begins_anew(run: Callable[[], Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Store.open(out) as store:
        cell = store.cells("train")[0].id
    before = {path.name: path.read_bytes() for path in (out / "weights").glob("*.safetensors")}
    for path in (out / "weights").glob("*.safetensors"):
        path.unlink()
    (out / "checkpoints").mkdir(exist_ok=True)
    path = out / "checkpoints" / f"{cell}.pt"
    path.write_bytes(b'{"format": 1, "owner": "another", "sha256": ""}\nstate')
    done = run()
    assert done.code == 0, done.err
    assert f"{cell}.pt: expected a training checkpoint of this cell, got SHA-256" in done.err
    assert "It is set aside; training from the start" in done.err
    assert "its weights are missing, training anew" in done.err
    assert {path.name: path.read_bytes() for path in (out / "weights").glob("*.safetensors")} == before


@pytest.mark.parametrize("kind", ["flipped", "deleted"])
def test_weights_are_looked_at_although_every_cell_is_stored(
    run: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    path = sorted((out / "weights").glob("*.safetensors"))[0]
    content = path.read_bytes()
    if kind == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = run()
        assert done.code == 3
        assert f"{path.name}: expected weights with SHA-256 {path.stem[:12]}, got" in done.err
        assert "delete it and run the command that made the folder again" in done.err
    path.unlink(missing_ok=True)
    dry = run("--dry-run")
    assert dry.out.splitlines()[-1] == "cells: 6, cached: 5"
    assert "its weights are missing" in dry.out
    verified = cli("verify", "--out", out, "--defense", "vanilla", "--defense", "standard")
    assert verified.code == 3
    assert "Run the command that made the folder again to train anew" in verified.err
    done = run()
    assert done.code == 0, done.err
    assert path.read_bytes() == content


def test_one_flipped_file_is_one_line(run: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = sorted((out / "weights").glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    for command in (("verify",), ("store", "check")):
        done = cli(*command, "--out", out)
        assert done.code == 3
        assert sum(path.stem[:12] in line for line in (done.out + done.err).splitlines()) == 1
    path.unlink()
    assert run().code == 0
    change(out, "UPDATE chunks SET data=zeroblob(50) WHERE cell=(SELECT max(cell) FROM chunks)")
    done = cli("verify", "--out", out)
    assert done.code == 3
    assert sum("expected data with SHA-256" in line for line in done.err.splitlines()) == 1
