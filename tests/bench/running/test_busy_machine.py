"""Costs on a machine kept busy by two endless loops: the idle ones, or a dash with its reason; counted ones as ever."""

import contextlib
import json
import subprocess
import sys

import pytest


@pytest.fixture
def busy():
    """Two processes that compute without end."""
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(loop.kill)
        yield


def test_a_busy_machine_moves_no_counted_cost_and_no_time_that_is_given(busy, cli, tmp_path):
    """Adversarial training of 3 steps: about 3.1 times Standard's time on an idle machine, 3.03 times counted."""
    out = tmp_path / "busy"
    options = ("--seeds", "0,1", "--epochs", 2, "--train-limit", 320, "--limit", 4, "--evaluation", "accuracy")
    done = cli(
        "run", "--suite", "digits", "--out", out, "--defense", "standard", "--defense", "adversarial_training", *options
    )
    assert done.code == 0
    rows = {row["defense"]: row for row in json.loads((out / "leaderboard.json").read_text())["rows"]}
    assert rows["standard"]["train_flops"] == rows["standard"]["train_cost"] == 1.0
    slow = rows["adversarial_training"]
    assert slow["train_flops"] == pytest.approx(4134528 / 1365888, rel=1e-12)
    if slow["train_cost"] is None:
        assert slow["train_time"]["doubt"].startswith(("the machine was busy", "the seeds' ratios of time disagree"))
    else:
        assert slow["train_time"]["doubt"] == ""
        assert 2 < slow["train_cost"] < 5
