"""When a ratio of training times is given and when not, on fabricated trainings; the counted ratio needs no clock."""

from __future__ import annotations

from typing import Any

import pytest

from bench.reports.board.model import Row
from bench.reports.board.parts import RunFacts
from bench.reports.board.rows import with_cost
from bench.reports.board.training_cost import relative_time
from bench.store.plan_record import RunRecord


def training(seconds: float, share: float = 1.0, **more: Any) -> dict[str, Any]:
    times = {"cpu_seconds": seconds, "thread_seconds": seconds, "wall_seconds": seconds / share}
    return {"weights": "w", "device": "cpu", "threads": 1, "images": 100, "flops_per_image": 5.0, **times, **more}


def doubt(own: dict[int, Any], base: dict[int, Any]) -> str:
    return relative_time(own, base, "standard").doubt


def test_each_seed_is_compared_with_the_same_seed() -> None:
    """Seed 1 ran on a machine half as fast: both of its times are twice as long, and no ratio moves."""
    found = relative_time({0: training(3.0), 1: training(6.2)}, {1: training(2.0), 0: training(1.0)}, "standard")
    assert found.by_seed == pytest.approx({0: 3.0, 1: 3.1})
    assert found.value == pytest.approx(3.05)


def test_a_training_that_waited_for_its_core_gives_no_ratio() -> None:
    quiet, busy = {0: training(3.0, 0.91)}, {0: training(3.0, 0.89)}
    assert doubt(quiet, quiet) == ""
    assert doubt(busy, quiet) == "the machine was busy: its own training ran 89 % of the time with seed 0"
    theirs = "the machine was busy: standard, by whose time it is divided, ran 89 % of the time with seed 0"
    assert doubt(quiet, busy) == doubt({0: training(3.0, 0.5)}, busy) == theirs


def test_seeds_that_disagree_give_no_ratio() -> None:
    base = {0: training(1.0), 1: training(1.0)}
    assert doubt({0: training(3.0), 1: training(3.59)}, base) == ""
    assert doubt({0: training(3.0), 1: training(3.7)}, base) == "the seeds' ratios of time disagree: 3.00 and 3.70"


def test_several_threads_are_judged_by_the_thread_that_trains() -> None:
    """Two threads' CPU time exceeds the wall clock's also where each waited for its core half of the time."""
    two = {"threads": 2, "cpu_seconds": 1.9}
    assert doubt({0: training(1.0, **two)}, {0: training(1.0, **two)}) == ""
    assert "busy" in doubt({0: training(1.0, 0.5, **two)}, {0: training(1.0, **two)})
    assert "different devices or numbers of threads" in doubt({0: training(1.0, **two)}, {0: training(1.0)})


def on_gpu(seconds: float, **more: Any) -> dict[str, Any]:
    return training(0.1, 0.05, device="cuda", device_seconds=seconds, **more)


def test_a_gpu_is_judged_by_its_own_time() -> None:
    """The thread that launches work on a GPU mostly waits."""
    alone = {"device_programs": 1}
    assert relative_time({0: on_gpu(6.0, **alone)}, {0: on_gpu(2.0, **alone)}, "standard").value == 3.0


def test_a_gpu_that_other_programs_had_too_gives_no_ratio() -> None:
    """Its time counts what they ran in between, and where nobody says how many there were, none is believed."""
    alone, shared, unknown = ({0: on_gpu(6.0, **m)} for m in ({"device_programs": 1}, {"device_programs": 3}, {}))
    assert doubt(alone, alone) == ""
    assert doubt(shared, alone) == "its own training with seed 0: 3 programs had the GPU"
    assert doubt(alone, shared) == "standard, by whose time it is divided, with seed 0: 3 programs had the GPU"
    assert doubt(unknown, alone) == "its own training with seed 0: whether other programs had the GPU is not known"


def test_the_time_on_a_shared_gpu_is_no_time_of_the_training() -> None:
    alone, shared = ({0: on_gpu(6.0, device_programs=n)} for n in (1, 2))
    times = {r.defense: r.train_seconds for r in with_cost([row("standard", alone), row("lcnn", shared)])}
    assert times == {"standard": 6.0, "lcnn": None}


def test_without_a_stored_time_there_is_no_ratio() -> None:
    assert "has a stored training time" in doubt({0: {"weights": "w"}}, {0: training(1.0)})
    assert "has a stored training time" in doubt({0: training(1.0)}, {1: training(1.0)})


def row(name: str, trainings: dict[int, dict[str, Any]]) -> Row:
    entry = RunRecord(
        defense=name, base=name, seed=0, provenance="", train_cell="", description="", source="", version=1,
        hyperparameters={}, recipe={}, backbone="mlp",
    )  # fmt: skip
    runs = {seed: RunFacts(entry, info) for seed, info in trainings.items()}
    return Row(None, None, None, name, name, tuple(trainings), 0, {}, runs=runs)


def test_the_counted_cost_is_there_where_no_clock_can_be_believed() -> None:
    standard = row("standard", {0: training(1.0, 0.3), 1: training(2.0, 0.3)})
    slow = row("slow", {0: training(9.0, 0.3, flops_per_image=15.0), 1: training(1.0, 0.3, flops_per_image=15.0)})
    longer = row("longer", {0: training(9.0, images=200), 1: {}})
    unknown = row("unknown", {0: {k: v for k, v in training(1.0).items() if k != "flops_per_image"}})
    costs = {r.defense: (r.train_flops, r.train_cost) for r in with_cost([slow, standard, longer, unknown])}
    assert costs == {"standard": (1.0, 1.0), "slow": (3.0, None), "longer": (2.0, None), "unknown": (None, None)}
    assert [r.train_flops for r in with_cost([slow])] == [None], "no baseline, no ratio"
