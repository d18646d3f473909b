"""Workers: never more than cores, and never left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.running import machine, workers

ROOT = Path(__file__).resolve().parents[3]


def test_workers_times_threads_never_exceed_the_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert workers.wanted(threads=1, cells=1000) == 8
    assert workers.wanted(threads=3, cells=1000) == 2
    assert workers.wanted(threads=16, cells=1000) == 1
    assert workers.wanted(threads=1, cells=17) == 2
    assert workers.wanted(threads=1, cells=0) == 1


@pytest.mark.parametrize("wish", ["1", "64"])
def test_threads_never_exceed_the_cores_whatever_the_environment_says(wish):
    code = "from bench.running import machine as m; n = m.limit_threads(3072); assert 1 <= n <= m.cores(), n; print(n)"
    environment = {**os.environ, "OMP_NUM_THREADS": wish}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=ROOT)


def children(pid):
    """Return the processes that say they work for `pid`."""
    mark = f"BENCH_WORKER_OF={pid}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it ended, or it is not ours
            continue
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(machine.cores() < 2, reason="one core has no workers")
def test_a_worker_dies_with_a_killed_run(tmp_path):
    command = [sys.executable, "-m", "bench", "run", "--suite", "digits", "--out", str(tmp_path / "out"), "--quiet"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (found := children(run.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found
    run.kill()
    run.wait()
    while children(run.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not children(run.pid)
