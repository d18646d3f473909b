"""`verify`, `challenge` and `audit` of third parties' networks: what ends their process ends no command."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.discovery import include
from bench.core.errors import BenchError
from bench.core.user_code import origin_of_file
from bench.running import risk_audit
from bench.running.apart import Apart
from bench.store.store import Store

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are copied on Linux alone")

FILE = '''
"""A network that ends or stops its process when a file beside it says so."""
import os, pathlib, time
from torch import nn
from bench import Recipe, defense

MARK = pathlib.Path(__file__).with_name("mark")


class Net(nn.Sequential):
    def forward(self, x):
        mark = MARK.read_text() if MARK.exists() else ""
        print("theirs")
        if mark == "abort":
            os.abort()
        if mark == "exit":
            os._exit(0)
        if mark == "hang":
            time.sleep(1000)
        return super().forward(x)


@defense(source="here", recipe=Recipe(epochs=2, batch_size=50, lr=0.1))
def marked(num_classes, in_shape, backbone):
    """Be a linear network."""
    return Net(nn.Flatten(), nn.Linear(64, num_classes))
'''
ATTACK = """
[evaluations.pgd_l2]
eps = [0.5]
steps = 3
limit = 20
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, write_suite: Callable[..., Path]) -> tuple[Path, Path]:
    from bench.running import pipeline
    from bench.running.prepare import Options

    place = tmp_path_factory.mktemp("apart")
    (place / "theirs.py").write_text(FILE)
    suite = write_suite(place / "tiny.toml", ["marked", "vanilla"], ATTACK, epochs=1)
    include(place / "theirs.py")
    included = (str(place / "theirs.py"),)
    done = pipeline.run(Options(str(suite), {"train_limit": 200}, out=place / "out", included=included))
    assert done.code == 0, done.failures
    return place / "out", place / "theirs.py"


@pytest.fixture
def mark(board: tuple[Path, Path]) -> Any:
    path = board[1].with_name("mark")
    yield path
    path.unlink(missing_ok=True)


def test_verify_names_the_row_and_goes_on(cli: Callable[..., Any], board: tuple[Path, Path], mark: Path) -> None:
    out, file = board
    done = cli("verify", "--out", out, "--include", file)
    assert done.code == 0, done.err
    assert "against 2 models" in done.out
    assert "theirs" not in done.out
    assert "| theirs" in done.err
    examples = int(done.out.splitlines()[-1].split()[1])
    mark.write_text("abort")
    done = cli("verify", "--out", out, "--include", file)
    assert done.code == 3
    assert "marked seed 0: expected a result, got the end of its process by SIGABRT" in done.err
    assert "against 1 models" in done.out
    assert int(done.out.splitlines()[-1].split()[1]) < examples


def test_challenge_ends_with_the_cause(
    cli: Callable[..., Any], board: tuple[Path, Path], mark: Path, tmp_path: Path
) -> None:
    out, file = shutil.copytree(board[0], tmp_path / "out"), board[1]
    with Store.open(out) as store:
        run = next(run for run in store.plans.latest().rows if run.defense == "marked")
        images = store.images(run.evaluations["pgd_l2"])
    np.savez(tmp_path / "a.npz", index=images["index"], x_adv=images["adversarial"])
    command = ("challenge", "--out", out, "--defense", "marked", "--include", file, tmp_path / "a.npz")
    mark.write_text("exit")
    done = cli(*command)
    assert done.code == 1
    assert "got the end of its process by exit code 0" in done.err
    assert not list(out.glob("challenges/*"))
    mark.unlink()
    done = cli(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"accepted: {len(images['index'])}, refused: 0"


def test_an_audit_counts_what_ends_its_process_as_a_hit(
    cli: Callable[..., Any], board: tuple[Path, Path], mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, file = shutil.copytree(board[0], tmp_path / "out"), board[1]
    command = ("audit", "--out", out, "--defense", "marked", "--include", file, "--margin", "0.5", "--risk", "0.3")
    honest = cli(*command, "--seed", 1, "--max-images", 2)
    assert "fell at draw" not in honest.out, "the attack is the one that the board was made with"
    mark.write_text("abort")
    done = cli(*command, "--seed", 2, "--max-images", 2)
    assert "image" in done.out
    assert "failed: expected a result, got the end of its process by SIGABRT" in done.out
    mark.write_text("hang")
    monkeypatch.setattr(risk_audit, "_AuditorApart", _Impatient)
    done = cli(*command, "--seed", 3, "--max-images", 1)
    assert "failed: expected a sign of life" in done.out


class _Impatient(risk_audit._AuditorApart):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._child._silent = 1.0


def test_without_third_parties_nothing_is_started() -> None:
    with Apart("nothing", ()) as apart:
        assert apart.call(max, 3, 5) == 5
        assert apart._child._child is None


def test_a_child_that_has_died_is_replaced(board: tuple[Path, Path]) -> None:
    origin = origin_of_file(include(board[1]))
    assert origin is not None
    with Apart("work", (origin,)) as apart:
        assert apart.call(max, 3, 5) == 5
        with pytest.raises(BenchError, match="exit code 7"):
            apart.call(os._exit, 7)
        assert apart.call(max, 4, 6) == 6
