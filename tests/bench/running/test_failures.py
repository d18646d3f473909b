"""What failed is recorded with its cause, and complete results are told from incomplete ones."""

import pandas as pd
import pytest

import bench
from bench.store.status import run_status
from bench.store.store import Store

FILE = """
from pathlib import Path

import torch
from torch import nn
from bench import Column, Recipe, defense, evaluation


@defense(source="here", recipe=Recipe(epochs=1, batch_size=50, lr=0.1))
def fails_for_a_seed(num_classes, in_shape, backbone):
    if torch.initial_seed() == SEED_OF_1:
        raise ValueError("not with\\nthis seed")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@defense(source="here", recipe=Recipe(epochs=1, batch_size=50, lr=0.1))
def holds(num_classes, in_shape, backbone):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


calls = []
failed_once = Path(__file__).parent / "failed_once"  # each run's evaluation is a process of its own


@evaluation(source="here", columns={"mean_pixel": Column("Mean.")}, chunk=4)
def breaks_half_way(model, x, y, *, seed=0):
    calls.append(len(x))
    if len(calls) == 2 and not failed_once.exists():
        failed_once.touch()
        raise ZeroDivisionError("second chunk")
    return {"mean_pixel": x.mean((1, 2, 3))}
"""
EVALUATIONS = """
[evaluations.accuracy]
limit = 12
[evaluations.breaks_half_way]
limit = 12
"""


@pytest.fixture
def failed(tmp_path, write_suite, cli):
    from bench.core.seeding import derive

    path, out = tmp_path / "failing_defenses.py", tmp_path / "out"
    path.write_text(f"SEED_OF_1 = {derive('initialisation', 1)}\n{FILE}")
    bench.core.discovery.include(path)
    suite = write_suite(tmp_path / "tiny.toml", ["fails_for_a_seed", "holds"], EVALUATIONS, epochs=1)
    arguments = ("run", "--suite", suite, "--out", out, "--train-limit", 150, "--seeds", "0,1", "--include", path)
    return out, arguments, cli(*arguments)


def test_what_failed_is_recorded_and_what_finished_stays(failed, cli):
    out, arguments, done = failed
    assert done.code == 1
    assert "fails_for_a_seed seed 1: ValueError: not with this seed" in done.err
    assert "fails_for_a_seed seed 0: breaks_half_way: ZeroDivisionError: second chunk" in done.err
    rows = {row.label: row for row in run_status(out).rows}
    half, broken = rows["fails_for_a_seed seed 0"], rows["fails_for_a_seed seed 1"]
    assert half.failed == {"breaks_half_way": "ZeroDivisionError: second chunk"}
    assert half.unfinished == ("breaks_half_way",)
    assert half.images == {"accuracy": 12, "breaks_half_way": 4}
    assert broken.failed == {"train": "ValueError: not with this seed"}
    assert broken.unfinished == ("train", "accuracy", "breaks_half_way")
    assert broken.images == {"accuracy": 0, "breaks_half_way": 0}
    assert not half.complete
    assert not broken.complete
    assert rows["holds seed 0"].complete
    assert run_status(out).complete_seeds() == {"fails_for_a_seed": (0, 2), "holds": (2, 2)}
    with Store.open(out) as store:
        plan = store.plans.latest()
        status = {(c.spec["name"]): c.status for kind in ("train", "evaluation") for c in store.cells(kind)}
    assert plan.evaluations["breaks_half_way"].n == 12
    assert status["fails_for_a_seed seed 1"] == "failed"
    assert status["fails_for_a_seed seed 0: breaks_half_way"] == "failed"
    board = pd.read_csv(out / "leaderboard.csv").set_index("defense")
    assert set(board.index) == {"fails_for_a_seed", "holds"}
    again = cli(*arguments)  # what failed is tried again; the seed fails again
    assert again.code == 1
    assert {row.label: row.complete for row in run_status(out).rows} == {
        "fails_for_a_seed seed 0": True, "fails_for_a_seed seed 1": False,
        "holds seed 0": True, "holds seed 1": True,
    }  # fmt: skip
    assert run_status(out).complete_seeds() == {"fails_for_a_seed": (1, 2), "holds": (2, 2)}
