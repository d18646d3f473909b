"""The engines for clusters, on clusters of this machine; skipped where their packages are not installed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from bench.core.errors import MachineError
from bench.running import engines, pipeline
from bench.running.prepare import Options

NARROW = {
    "defenses": ("standard", "gradreg"),
    "seeds": (0,),
    "limit": 6,
    "train_limit": 100,
    "epochs": 2,
    "evaluations": ("accuracy", "curvature"),
}
SMALLEST = NARROW | {"limit": 8, "epochs": 1, "evaluations": ("accuracy",)}  # a job of Slurm is a process of its own
TIMES = ("seconds", "cpu", "wall", "per_second")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
needs_slurm = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="the extra slurm is not installed"
)


def _board(out: Path, narrow: dict[str, object] = NARROW, **more: object) -> list[dict[str, str]]:
    """Return the rows of a board without times."""
    options = Options(suite="digits", narrow=narrow, out=out, quiet=True, **more)  # type: ignore[arg-type]
    result = pipeline.run(options)
    assert result.code == 0, result.failures
    with (out / "leaderboard.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in rows]


def _kill_one(name: str, killed: list[int], over: threading.Event) -> None:
    """Kill one process that computes an order for this one, as soon as there is one."""
    while not over.wait(0.05):
        for child in psutil.Process().children(recursive=True):
            try:
                if name in " ".join(child.cmdline()) or name in child.name():
                    child.kill()
                    killed.append(child.pid)
                    return
            except psutil.Error:
                continue


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_ray_that_loses_a_worker_gives_the_board_of_this_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere.invalid:1")  # is not joined
    killed, over = list[int](), threading.Event()
    thread = threading.Thread(target=_kill_one, args=("ray::_compute_here", killed, over))
    thread.start()
    try:
        found = _board(tmp_path / "ray", engine="ray")
    finally:
        over.set()
        thread.join()
    assert killed
    assert os.environ["RAY_ADDRESS"] == "ray://nowhere.invalid:1"
    assert found == _board(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_lost_requests_and_replies_of_ray_change_nothing(tmp_path, monkeypatch) -> None:
    each = {
        "num_failures": 4,
        "req_failure_prob": 25,
        "resp_failure_prob": 25,
        "num_lower_bound_req_failures": 1,
        "num_lower_bound_resp_failures": 1,
    }
    calls = ("CoreWorkerService.grpc_client.PushTask", "NodeManagerService.grpc_client.ReturnWorkerLease")
    monkeypatch.setenv("RAY_testing_rpc_failure", json.dumps(dict.fromkeys(calls, each)))
    begun = time.monotonic()
    found = _board(tmp_path / "ray", SMALLEST, engine="ray")
    assert time.monotonic() - begun < 900
    monkeypatch.delenv("RAY_testing_rpc_failure")
    assert found == _board(tmp_path / "local", SMALLEST)


@needs_slurm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # submitit's
def test_jobs_of_submitit_on_this_machine_give_the_board_of_the_local_engine(tmp_path) -> None:
    found = _board(tmp_path / "slurm", SMALLEST, engine="slurm", slurm={"cluster": "local", "jobs": "2", "time": "5m"})
    assert found == _board(tmp_path / "local", SMALLEST)
    assert not list((tmp_path / "slurm" / "parts").glob("**/*.db"))
    assert (
        _board(tmp_path / "slurm", SMALLEST, engine="slurm", slurm={"cluster": "local"}) == found
    )  # nothing is computed again


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_whose_package_is_missing_names_the_extra(name: str, package: str, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    with pytest.raises(
        MachineError, match=rf"--engine {name}: expected the package {package}.*adversarial-bench\[{name}\]"
    ):
        engines.load(name)
