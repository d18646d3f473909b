"""Every single write, fsync, rename and unlink may fail, or be the last thing that a process does.

A library that is preloaded into a process of its own counts the calls; the process forks once per call.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.core import files
from bench.core.errors import MachineError
from bench.store.store import Store
from tests.bench.store.folders import claimed, images_of, plan_of, table_of

FAIL, DIE, HALF = 1, 2, 3
CHUNKS = 2
LEAST = 40  # calls that change the folder


def work(out: Path, say: Callable[[str], object]) -> None:
    """Do what a run does to a folder, as far as it is not done yet; say what is acknowledged, in order."""
    try:
        with Store.open(out, create=True) as store:
            store.plans.put(plan_of("a"))
            say("plan")
            record = store.cell("c")
            if record is None or record.status != "done":
                lease = claimed(store, "c", "evaluation", {})
                for number in set(range(CHUNKS)) - set(store.chunk_info("c")):
                    store.put_chunk(lease, number, table_of(number), images_of(number), {"images": 2})
                    say(f"chunk {number}")
                files.write_text(out / "weights" / "f", "content")
                say("file")
                store.finish(lease, {"forwards": 4})
            say("finish")
    except MachineError as error:
        say(f"refused: {error}")


def check(out: Path, said: list[str]) -> None:
    """Compare what is there with what was acknowledged; then finish the work and compare with all of it."""
    before = {p.name for p in out.rglob("*")} if out.is_dir() else set()
    assert "f" in before or "file" not in said
    if "plan" in said:
        with Store.open(out) as store:
            assert store.plans.latest().rows[0].defense == "a"
            there = store.chunk_info("c")
            assert {f"chunk {n}" for n in there} >= {s for s in said if s.startswith("chunk")}
            assert len(store.table("c")) == 2 * len(there)
            assert store.drop_damaged() == []
    again: list[str] = []
    work(out, again.append)
    assert again[-1] == "finish", again
    with Store.open(out) as store:
        assert len(store.table("c")) == 2 * CHUNKS
        record = store.cell("c")
        assert record is not None
        assert record.status == "done"
        assert store.plans.numbers() == [1]
    assert (out / "weights" / "f").read_text() == "content"
    assert sorted(p.name for p in out.rglob("*")) == ["bench.db", "f", "weights"]


def attempt(out: Path, k: int, how: int) -> list[str]:
    """Work in a child whose k-th call fails or is its last one; return what it acknowledged, the end included."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        library.fault_arm(os.fsencode(out), ctypes.c_long(k), how)
        work(out, lambda said: os.write(there, f"{said}\n".encode()))
        if library.fault_made() < k:
            os.write(there, b"no call failed\n")
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as stream:
        said = stream.read().splitlines()
    os.waitpid(child, 0)
    return said


def enumerate_calls(how: int) -> None:
    """Make one call after the other fail, until the work ends before it; print how many there were."""
    points, refusals = 0, 0
    for k in range(1, 10_000):
        out = Path(tempfile.mkdtemp()) / "out"
        said = attempt(out, k, how)
        check(out, said)
        if said[-1:] == ["no call failed"]:
            break
        refusals += any(s.startswith("refused") for s in said)
        points += 1
        shutil.rmtree(out.parent)
    print(f"points {points} refusals {refusals}")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler, to fail single system calls")
    target = tmp_path_factory.mktemp("faults") / "faults.so"
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"], check=True)
    return target


@pytest.mark.parametrize("how", [FAIL, HALF, pytest.param(DIE, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_at_any_call(library: Path, tmp_path: Path, how: int) -> None:
    root = Path(__file__).resolve().parents[3]
    code = f"from tests.bench.store.test_faults import enumerate_calls; enumerate_calls({how})"
    environment = {**os.environ, "LD_PRELOAD": str(library), "TMPDIR": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, points, _, refusals = done.stdout.split()
    assert int(points) >= LEAST
    if how == FAIL:
        assert int(refusals) >= LEAST // 2, "a disk that is full is said to be"
