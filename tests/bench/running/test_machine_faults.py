"""Faults of the machine and the user's signals, on whole commands: exit code, one line, nothing acknowledged lost."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.core.errors import BenchError
from bench.store.store import Store
from tests.bench.short_suite import SHORT_EVALUATIONS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(tmp_path: Path, write_suite: Callable[..., Path]) -> tuple[Path, tuple[object, ...]]:
    """Return a result folder and the command that fills it."""
    suite, out = write_suite(tmp_path / "tiny.toml", ["standard"], SHORT_EVALUATIONS, epochs=1), tmp_path / "out"
    return out, ("run", "--suite", suite, "--out", out, "--train-limit", 100, "--quiet")


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a size inside the block: a write beyond it fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def chunks(out: Path) -> set[tuple[str, int]]:
    try:
        with Store.open(out) as store:
            return {(cell.id, number) for cell in store.cells("evaluation") for number in store.chunk_info(cell.id)}
    except BenchError:  # the disk was full before there was a store
        return set()


@pytest.mark.parametrize("size", [4_096, 100_000])
def test_a_disk_that_fills_during_a_run_is_4_and_loses_nothing(command, cli, size: int) -> None:
    out, run = command
    with files_of_at_most(size):
        full = cli(*run)
    assert full.code == 4, full.err
    assert len(full.err.strip().splitlines()) == 1
    assert "Check free space" in full.err
    kept = chunks(out)
    again = cli(*run)
    assert again.code == 0, again.err
    assert chunks(out) >= kept
    assert not list(out.glob(".*.tmp"))


def test_a_disk_that_fills_during_the_report_is_4_and_the_report_is_made_later(command, cli) -> None:
    out, run = command
    assert cli(*run).code == 0
    before = (out / "leaderboard.html").read_bytes()
    with files_of_at_most(50_000):
        full = cli("report", "--out", out)
    assert full.code == 4
    assert len(full.err.strip().splitlines()) == 1
    assert (out / "leaderboard.html").read_bytes() == before, "the old page stays whole"
    assert cli("report", "--out", out).code == 0
    assert (out / "leaderboard.html").read_bytes() == before


def test_locale_and_time_zone_change_no_byte_of_the_exports(command, cli) -> None:
    out, run = command
    assert cli(*run).code == 0
    names = ["leaderboard.html", "leaderboard.csv", "leaderboard.json", "examples.parquet", "manifest.json"]
    before = {name: (out / name).read_bytes() for name in names}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {name: (out / name).read_bytes() for name in names} == before


NAN_GRADIENTS = """
import torch
from torch import nn
from bench import Recipe, defense


class Rooted(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, x):
        z = self.net(x)
        return z if self.training else z + (z - z).abs().sqrt()


@defense(source="here", recipe=Recipe(epochs=4, batch_size=20, lr=0.2))
def rooted(num_classes, in_shape, backbone):
    return Rooted(num_classes)
"""


def test_gradients_that_are_not_finite_fail_the_attack_and_are_never_robust(command, cli, tmp_path: Path) -> None:
    path = tmp_path / "rooted_defense.py"
    path.write_text(NAN_GRADIENTS)
    done = cli(*command[1], "--include", path, "--defense", "rooted")
    assert done.code == 1
    assert "rooted seed 0: pgd_l2: pgd: expected finite logits and gradients, got NaN or infinity" in done.err
    assert "accuracy:" not in done.err, "the other cells are untouched"
    assert "Traceback" not in done.err
