"""The engines for clusters, on clusters of this machine; skipped where their packages are not installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.core.errors import BenchError, MachineError
from bench.core.hashing import sha256_of
from bench.running import engines, pipeline
from bench.running.prepare import Options
from bench.running.remote.orders import Order
from bench.store.database import NAME
from bench.store.store import Store
from benchmarks.clusters import board
from tests.bench.running import small_slurm

NARROW = {
    "defenses": ("standard", "gradreg"),
    "seeds": (0,),
    "limit": 6,
    "train_limit": 100,
    "epochs": 2,
    "evaluations": ("accuracy", "curvature"),
}
SMALLEST = NARROW | {"limit": 8, "epochs": 1, "evaluations": ("accuracy",)}  # a job of Slurm is a process of its own
JOBS = {"cluster": "local", "jobs": "2", "time": "5m"}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
needs_slurm = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="the extra slurm is not installed"
)
submitit_leaks = pytest.mark.filterwarnings(  # its log files are closed by the collector
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def _board(out: Path, narrow: dict[str, object] = NARROW, **more: object) -> list[dict[str, str]]:
    """Return the rows of a board without times."""
    options = Options(suite="digits", narrow=narrow, out=out, quiet=True, **more)  # type: ignore[arg-type]
    result = pipeline.run(options)
    assert result.code == 0, result.failures
    return board(out)


def _handles(pid: int, number: int) -> bool:
    """Tell whether a process has a handler of a signal: before, the signal would end it."""
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@contextlib.contextmanager
def _one_hit(name: str, number: int = signal.SIGKILL) -> Iterator[list[int]]:
    """Send a signal to one process that computes an order for this one, as soon as there is one in the block."""
    hit, over = list[int](), threading.Event()

    def look() -> None:
        while not hit and not over.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    named = name in " ".join(child.cmdline()) or name in child.name()
                    if not hit and named and (number == signal.SIGKILL or _handles(child.pid, number)):
                        child.send_signal(number)
                        hit.append(child.pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_ray_that_loses_a_worker_gives_the_board_of_this_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere.invalid:1")  # is not joined
    with _one_hit("ray::_compute_here") as killed:
        found = _board(tmp_path / "ray", engine="ray")
    assert killed
    assert os.environ["RAY_ADDRESS"] == "ray://nowhere.invalid:1"
    assert found == _board(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_this_machine_is_closed_to_others_and_reports_nothing(monkeypatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    join = (
        "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR'); print(ray.cluster_resources()['CPU'])"
    )
    with engines.load("ray")._cluster(None) as ray:
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not ray._private.worker.global_worker.node.webui_url, "a dashboard"
        command = [sys.executable, "-c", join, ray.get_runtime_context().gcs_address]
        ours = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (ours.returncode, float(ours.stdout) > 0) == (0, True), ours.stderr
        for token in (None, "0" * 64):
            others = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}
            others |= {"RAY_AUTH_TOKEN": token} if token else {}
            found = subprocess.run(command, capture_output=True, text=True, timeout=120, env=others)
            assert found.returncode != 0
            assert "uthentication" in found.stderr, found.stderr[-500:]
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"} & os.environ.keys()


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
    logs = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").glob(
        f"session_*/logs/python-core-driver-*_{os.getpid()}.log"
    )
    said = "".join(log.read_text(errors="replace") for log in logs)
    assert all(f"Inject RPC {what} failure for {calls[0]}" in said for what in ("request", "response"))
    monkeypatch.delenv("RAY_testing_rpc_failure")
    assert found == _board(tmp_path / "local", SMALLEST)


@needs_ray
@pytest.mark.slow
def test_two_workers_of_ray_that_find_something_else_are_a_finding() -> None:
    engine = engines.load("ray")
    with engine._cluster(None) as ray:
        transport = engine.RayTransport(ray, {"cpus": 1.0})
        orders = [Order("c", "evaluation", (k, k + 1), "", "").to_bytes() for k in range(2)]  # of another bench
        earlier = [ray.get(transport.submit(orders[1])) for _ in range(2)]
        assert earlier[0] == earlier[1]
        assert transport.contradictions() == []
        ray.get(transport._ledger.note.remote(sha256_of(orders[0]), "0" * 64))  # what a late worker has found
        ray.get(transport.submit(orders[0]))
        (finding,) = transport.contradictions()
        assert finding.startswith(f"order {sha256_of(orders[0])[:12]}: expected equal results of the workers")
        blob = transport.put(b"x" * 200_000)
        transport.keep_only({blob})
        assert transport._blobs.keys() == {blob}
        transport.keep_only(())
        assert transport.put(b"x" * 200_000) == blob
    assert transport.contradictions() == []  # the cluster is gone


def _words(out: Path, narrow: dict[str, object], *more: str) -> list[str]:
    """Return the command that `_board` runs, as a process of its own."""
    named = {"defenses": "--defense", "evaluations": "--evaluation", "seeds": "--seeds"}
    words = [sys.executable, "-m", "bench", "run", "--suite", "digits", "--out", str(out), "--quiet", *more]
    for name, value in narrow.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [named.get(name, f"--{name.replace('_', '-')}"), str(one)]
    return words


def _done(out: Path) -> dict[str, object]:
    """Return what is stored of the cells that are done, times included."""
    if not (out / NAME).is_file():
        return {}
    with contextlib.suppress(BenchError), Store.open(out) as store:
        return {
            cell.id: cell.info
            for kind in ("train", "evaluation")
            for cell in store.cells(kind)
            if cell.status == "done"
        }
    return {}


def _wait_for(what: Callable[[], object], driver: subprocess.Popen[str], seconds: float = 600) -> None:
    """Wait until something is so while a driver runs."""
    end = time.monotonic() + seconds
    while not what():
        assert driver.poll() is None, "the driver has ended"
        assert time.monotonic() < end
        time.sleep(0.1)


@needs_ray
@pytest.mark.slow
def test_a_driver_of_ray_that_was_killed_leaves_nothing_and_goes_on(tmp_path) -> None:
    out = tmp_path / "ray"
    words = _words(out, NARROW, "--engine", "ray")
    with subprocess.Popen(words, text=True) as driver:
        _wait_for(lambda: _done(out), driver)
        begun = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    before = _done(out)
    assert begun
    subprocess.run(words, check=True, timeout=600)
    after = _done(out)
    assert len(before) < len(after)
    assert before.items() <= after.items(), "what was stored is not computed again"
    left = psutil.wait_procs(begun, timeout=180)[1]  # Ray's agents look for their raylet now and then
    assert not left, "processes of a cluster whose driver is gone"
    assert board(out) == _board(tmp_path / "local")


NODES = """
import sys, time
import psutil
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
while not any("ray::_compute_here" in " ".join(child.cmdline()) for child in raylet.children()):
    time.sleep(0.05)
cluster.remove_node(node, allow_graceful=False)
print("lost" if not raylet.is_running() else "left", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@needs_ray
@pytest.mark.slow
def test_a_node_of_ray_that_is_lost_costs_what_it_was_computing(tmp_path) -> None:
    out, root = tmp_path / "ray", str(Path(__file__).resolve().parents[3])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": root}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", NODES], text=True, env=environment, **pipes) as cluster:  # type: ignore[call-overload]
        address = cluster.stdout.readline().strip()
        words = _words(out, NARROW, "--engine", "ray", "--address", address)
        with subprocess.Popen(words, text=True, env=environment) as driver:
            assert cluster.stdout.readline().strip() == "lost"
            assert driver.poll() is None, "the node was lost behind the run"
            assert driver.wait(timeout=600) == 0
        cluster.communicate(timeout=120)
    assert board(out) == _board(tmp_path / "local")


@needs_slurm
@pytest.mark.slow
@submitit_leaks
def test_jobs_of_submitit_on_this_machine_give_the_board_of_the_local_engine(tmp_path) -> None:
    with _one_hit("submitit.core._submit") as killed:
        found = _board(tmp_path / "slurm", SMALLEST, engine="slurm", slurm=JOBS)
    assert killed
    assert found == _board(tmp_path / "local", SMALLEST)
    assert not list((tmp_path / "slurm" / "parts").glob("**/*.db"))
    assert (
        _board(tmp_path / "slurm", SMALLEST, engine="slurm", slurm={"cluster": "local"}) == found
    )  # nothing is computed again


@needs_slurm
def test_the_script_for_sbatch_is_the_one_in_the_documentation(tmp_path, monkeypatch) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    asked = {"partition": "gpu", "gpus": "1", "time": "2h", "parts": "/shared/parts"}
    jobs = engines.load("slurm").executor(Path("/shared/parts"), asked)._executor
    jobs.parameters["map_count"] = 40  # of an array
    text = jobs._make_submission_file_text(jobs._submitit_command_str, "name").replace(sys.executable, "python")
    pages = Path(__file__).resolve().parents[3] / "docs" / "howto" / "cluster.md"
    assert f"```sh\n{text.strip()}\n```" in pages.read_text(encoding="utf-8")


@needs_slurm
@pytest.mark.slow
@submitit_leaks
def test_arrays_of_a_small_slurm_give_the_board_and_a_preempted_task_goes_on(tmp_path, monkeypatch) -> None:
    (tmp_path / "cluster").mkdir()
    for name, value in small_slurm.install(tmp_path / "cluster").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(engines.load("slurm"), "GATHER_SECONDS", 5.0)  # both trainings, on a busy machine too
    out = tmp_path / "slurm"
    found = _board(out, SMALLEST, engine="slurm", slurm={"partition": "debug", "time": "5m", "jobs": "4"})
    assert found == _board(tmp_path / "local", SMALLEST)
    logs = out / "parts" / "logs"
    assert any("#SBATCH --array=0-1%" in path.read_text() for path in (tmp_path / "cluster").glob("job-*/script"))
    assert (tmp_path / "cluster" / "preempted").is_dir()
    assert any("Requeued job" in path.read_text() for path in logs.rglob("*_log.*"))


@needs_slurm
@pytest.mark.slow
@submitit_leaks
def test_a_driver_that_was_killed_goes_on_and_a_job_that_was_preempted_too(tmp_path) -> None:
    words = ["run", "--engine", "slurm", "--slurm", ",".join(f"{k}={v}" for k, v in JOBS.items())]
    words += ["--suite", "digits", "--seeds", "0", "--limit", "8", "--train-limit", "100", "--epochs", "1"]
    words += ["--defense", "standard", "--defense", "gradreg", "--evaluation", "accuracy"]
    out = tmp_path / "slurm"
    replies = out / "parts" / "replies"
    driver = subprocess.Popen([sys.executable, "-m", "bench", *words, "--out", str(out), "--quiet"])
    end = time.monotonic() + 600
    while not (replies.is_dir() and any(len(p.name) == 64 for p in replies.iterdir())) and time.monotonic() < end:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = {path.name: path.stat().st_mtime_ns for path in replies.iterdir() if len(path.name) == 64}
    assert before
    with _one_hit("submitit.core._submit", signal.SIGUSR2) as preempted:
        found = _board(out, SMALLEST, engine="slurm", slurm=JOBS)
    assert preempted
    assert any("Requeued job" in log.read_text() for log in (out / "parts" / "logs").glob("*/*_log.*"))
    assert found == _board(tmp_path / "local", SMALLEST)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in replies.iterdir()}.items()


@needs_slurm
@pytest.mark.slow
@submitit_leaks
def test_the_debug_executor_of_submitit_gives_the_board_of_the_local_engine(tmp_path) -> None:
    found = _board(tmp_path / "slurm", SMALLEST, engine="slurm", slurm={"cluster": "debug", "jobs": "1"})
    assert found == _board(tmp_path / "local", SMALLEST)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_whose_package_is_missing_names_the_extra(name: str, package: str, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted))
    with pytest.raises(
        MachineError, match=rf"--engine {name}: expected the package {package}.*adversarial-bench\[{name}\]"
    ):
        engines.load(name)
