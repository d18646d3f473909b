"""A run that is ended at any instant, by any signal and again while it resumes, ends in the same decisions.

After each end, whatever was stored before is stored still: what was acknowledged is never lost.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.kills import differences

ROOT = Path(__file__).resolve().parents[3]
EVALUATIONS = """
[evaluations.accuracy]
limit = 20
[evaluations.pgd_l2]
eps = [0.1, 0.5]
steps = 5
limit = 20
[evaluations.autoattack_l2]
eps = [0.5]
limit = 12
"""
DECISIONS = ["clean_correct", "pgd_l2_0.1_robust", "pgd_l2_0.5_robust", "autoattack_l2_0.5_robust"]
CODES = {signal.SIGKILL: {-9}, signal.SIGINT: {0, 130, -2}, signal.SIGTERM: {0, 143, -15}}
Kill = tuple[signal.Signals, float]  # what is sent, so many seconds after the store is there


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, write_suite: Callable[..., Path]) -> Path:
    return write_suite(tmp_path_factory.mktemp("kills") / "tiny.toml", ["standard"], EVALUATIONS)


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bench.running import pipeline
    from bench.running.prepare import Options

    out = tmp_path_factory.mktemp("whole") / "out"
    assert pipeline.run(Options(str(suite), {"train_limit": 150}, out=out, quiet=True)).code == 0
    return out


def command(suite: Path, out: Path) -> list[str]:
    arguments = ["--suite", suite, "--out", out, "--train-limit", 150, "--quiet"]
    return [sys.executable, "-m", "bench", "run", *map(str, arguments)]


def stored(out: Path) -> set[tuple[object, ...]]:
    """Return what is acknowledged of a folder: finished cells and chunks, by their hashes."""
    if not (out / "bench.db").is_file():
        return set()
    with contextlib.closing(sqlite3.connect(out / "bench.db", timeout=60)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if "chunks" not in tables:
            return set()
        chunks = db.execute("SELECT cell, number, sha256 FROM chunks").fetchall()
        return {*chunks, *db.execute("SELECT id, info FROM cells WHERE status='done'").fetchall()}


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> int:
    process.send_signal(number)
    return process.wait(timeout=120)


def interrupted(suite: Path, out: Path, kills: Iterable[Kill]) -> int:
    """Run and end one process after the other; return how many ended before they were done."""
    count, before = 0, set[tuple[object, ...]]()
    for number, delay in kills:
        process = subprocess.Popen(command(suite, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and not (out / "bench.db").exists():
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=delay)
        code = end(process, number) if process.poll() is None else process.returncode
        assert code in {0, *CODES[number]}  # -2: before Python has come to the first line of ours
        now = stored(out)
        assert before <= now, f"lost after {number.name}: {before - now}"
        before = now
        if code == 0:
            break
        count += 1
    return count


def decisions(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "examples.parquet")[["defense", "seed", "index", *DECISIONS]]


def finish_and_compare(suite: Path, out: Path, whole: Path) -> None:
    done = subprocess.run(command(suite, out), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(decisions(out), decisions(whole))
    assert not [p for p in out.rglob("*") if p.name.endswith((".tmp", ".pt"))]


def test_ended_by_each_signal_and_again_while_it_resumes(suite: Path, whole: Path, tmp_path: Path) -> None:
    kills = [(signal.SIGKILL, 0.3), (signal.SIGTERM, 3.0), (signal.SIGINT, 1.0)]
    assert interrupted(suite, tmp_path / "out", kills) >= 2
    finish_and_compare(suite, tmp_path / "out", whole)
    assert differences(whole, tmp_path / "out") == []


def test_a_time_limit_acts_within_a_chunk(
    suite: Path, whole: Path, tmp_path: Path, write_suite: Callable[..., Path]
) -> None:
    from bench.running import pipeline
    from bench.running.prepare import Options

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = stored(out)
    endless = "[evaluations.pgd_l2]\neps = [0.5]\nsteps = 1000000\nlimit = 4\n"
    slow = write_suite(tmp_path / "slow.toml", ["standard"], endless)
    started = time.monotonic()
    result = pipeline.run(Options(str(slow), {"train_limit": 150}, out=out, quiet=True, time_limit=5.0))
    assert result.code == 75
    assert time.monotonic() - started < 300  # all of its steps would take hours
    assert stored(out) == before
    finish_and_compare(suite, out, whole)


@pytest.mark.slow
def test_fifty_ends_at_random_instants(suite: Path, whole: Path, tmp_path: Path) -> None:
    """Several runs are ended until 50 processes were: the delays are short enough that most end half-way."""
    rng, left, folder = np.random.default_rng(0), 50, 0
    while left > 0:
        folder += 1
        out = tmp_path / str(folder)
        signals = rng.choice(np.array([9, 2, 15]), left)
        kills = [(signal.Signals(int(s)), float(d)) for s, d in zip(signals, rng.uniform(0, 8, left), strict=True)]
        left -= interrupted(suite, out, kills)
        finish_and_compare(suite, out, whole)
        assert differences(whole, out) == []
