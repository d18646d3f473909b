"""One training over several processes: the same loss curve and weights as in one, up to rounding, or a clear error."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bench.training.split.group import Group
from bench.training.split.whole_batch import WholeBatch
from tests.bench.training.split_worker import curve

WORKER = Path(__file__).with_name("split_worker.py")
ROOT = WORKER.parents[3]
EQUAL = ["standard", "lcnn", "gradreg", "adversarial_training"]
REFUSED = {
    "no_mean": r"expected a training that gives the same over 2 processes as in one, got (squared|a gradient)",
    "own_norm": r"expected a training that gives the same over 2 processes as in one, got cross_entropy",
    "standard:batch_size=1": r"expected at least 2 images in each batch, one for each process, got 1",
}
OTHERS = [
    *("lcnn_gradreg", "cure", "softplus_wd", "vanilla", "smooth_gradreg", "cayley", "parseval", "spectral_norm"),
    *("common_gamma", "smoothing", "adversarial_training:released=true", "adversarial_training:norm=linf", "trades"),
]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """Return what torchrun would set."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    fixed = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **fixed, **{k: str(v) for k, v in places.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, size: int, seconds: float, *specs: str) -> list[int]:
    """Run a group of processes to its end and return their exit codes."""
    port = free_port()
    command = [sys.executable, str(WORKER), str(folder), str(seconds), *specs]
    group = [subprocess.Popen(command, env=environment(rank, size, port)) for rank in range(size)]
    try:
        first = group[0].wait(timeout=300)
    finally:
        for process in group[1:]:
            if process.poll() is None and "stops" in specs:
                process.kill()
    return [first, *(process.wait(timeout=60) for process in group[1:])]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two processes made of the trainings, and of one within which the second is killed."""
    folder = tmp_path_factory.mktemp("two")
    codes = start(folder, 2, 60.0, *EQUAL, "resumed lcnn", *REFUSED, "dies")
    assert codes == [0, -9]
    return folder


def read(folder: Path, spec: str, rank: int = 0) -> Any:
    return json.loads((folder / f"{spec} {rank}.json").read_text())


def same(alone: Any, together: Any, close: float = 1e-4) -> None:
    """Compare two trainings: every term and accuracy of every epoch that both have, and the weights."""
    for before, after in zip(alone[0][-len(together[0]) :], together[0], strict=True):
        assert after["terms"] == pytest.approx(before["terms"], rel=close, abs=1e-7)
        assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.01)
    np.testing.assert_allclose(together[1], alone[1], rtol=10 * close)


@pytest.mark.parametrize("spec", EQUAL)
def test_loss_curve_and_weights_are_those_of_one_process(two, spec) -> None:
    # A second derivative of β = 1e3 turns rounding into more of it: 1.6e-4 on a processor without AVX-512.
    same(curve(spec), read(two, spec), 1e-3 if spec == "gradreg" else 1e-4)
    assert read(two, spec, 1) == read(two, spec), "the same weights, bit for bit"


def test_it_goes_on_from_its_checkpoint(two) -> None:
    found = read(two, "resumed lcnn")
    assert len(found[0]) == 1, "the second epoch alone"
    assert found[1] == read(two, "lcnn")[1], "as if it had not been stopped"


@pytest.mark.parametrize("spec", REFUSED)
def test_what_cannot_be_split_is_refused_in_every_process(two, spec) -> None:
    first, second = (read(two, spec, rank)["error"] for rank in (0, 1))
    assert re.search(REFUSED[spec], first)
    assert first == second


def test_a_killed_process_ends_the_training_at_once(two) -> None:
    found = read(two, "dies")
    assert "LostProcessError: training over processes: expected an answer of each one within 60 s" in found["error"]
    assert found["seconds"] < 30


@pytest.mark.slow
def test_a_process_that_says_nothing_ends_it_in_time(tmp_path) -> None:
    assert start(tmp_path, 2, 6.0, "stops")[0] == 0
    found = read(tmp_path, "stops")
    assert "LostProcessError" in found["error"]
    assert found["seconds"] < 60


@pytest.mark.slow
def test_every_defense_over_three_processes(tmp_path) -> None:
    assert start(tmp_path, 3, 60.0, *OTHERS) == [0, 0, 0]
    for spec in OTHERS:
        # The ascent of TRADES starts where its gradient is nearly 0: it turns rounding into directions.
        same(curve(spec), read(tmp_path, spec), 1e-2 if spec == "trades" else 1e-3)


@pytest.mark.slow
def test_torchrun_runs_a_suite_and_stores_it_once(tmp_path) -> None:
    """The board of two processes is that of one, up to rounding; running it again in one process finds all stored."""
    small = ["--defense", "standard", "--defense", "lcnn", "--epochs", "2", "--train-limit", "200", "--limit", "40"]
    chosen = ["--evaluation", "accuracy", "--evaluation", "curvature", "--quiet"]
    run = ["-m", "bench", "run", *small, *chosen]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", f"--master-port={free_port()}"]
    quiet = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    boards = []
    for name, command in (("two", launcher), ("one", [sys.executable])):
        subprocess.run([*command, *run, "--out", str(tmp_path / name)], env=quiet, check=True, timeout=600)
        boards.append(json.loads((tmp_path / name / "leaderboard.json").read_text()))
    for two, one in zip(*(sorted(board["rows"], key=lambda row: row["defense"]) for board in boards), strict=True):
        for key in ("clean_accuracy", "curvature"):
            assert two["cells"][key]["value"] == pytest.approx(one["cells"][key]["value"], rel=0.01)
    manifest = (tmp_path / "two" / "manifest.json").read_text()
    assert manifest.count('"processes": 2') == 4, "two defenses, two seeds"
    again = [sys.executable, *run, "--out", str(tmp_path / "two"), "--dry-run"]
    text = subprocess.run(again, env=quiet, check=True, capture_output=True, text=True).stdout
    assert text.strip().endswith("cells: 12, cached: 12")


class Alone(Group):
    """A part of a batch whose other parts are computed one after the other: sums are what was noted before."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.lost = rank, size, ""
        self.device = torch.device("cpu")


@pytest.mark.parametrize("make", [
    lambda n: torch.rand(n, 3), lambda n: torch.randn((n, 2, 4)), lambda n: torch.randint(0, 9, (n,)),
    lambda n: torch.randint(9, size=(n, 2)), lambda n: torch.rand_like(torch.empty(n, 5)),
    lambda n: torch.empty(n, 3).uniform_(-1, 1), lambda n: torch.empty(n, 2, 3, 3).normal_(0, 2),
    lambda n: torch.randn_like(torch.empty(n, 3, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)),
])  # fmt: skip
def test_draws_of_the_parts_are_those_of_the_whole(make) -> None:
    torch.manual_seed(5)
    whole, after = make(7), torch.rand(2)
    parts = []
    for rank in range(3):
        group = Alone(rank, 3)
        mine = group.part(7)
        torch.manual_seed(5)
        with WholeBatch(group, 7):
            parts.append(make(mine.stop - mine.start))
            fixed = torch.rand(11)
        assert not torch.equal(fixed[:2], whole.flatten()[:2])
        torch.manual_seed(5)
        with WholeBatch(group, 7):
            make(mine.stop - mine.start)
        assert torch.equal(torch.rand(2), after), "the generator stands where one process would leave it"
    assert torch.equal(torch.cat(parts), whole)


def test_batch_norm_in_eval_mode_and_other_functions_are_left_alone() -> None:
    x, mean, var = torch.randn(4, 3, 2, 2), torch.randn(3), torch.rand(3)
    expected = F.batch_norm(x, mean, var)
    with WholeBatch(Alone(0, 2), 8):
        assert torch.equal(F.batch_norm(x, mean, var), expected)
        assert torch.equal(F.relu(x), x.clamp_min(0))
