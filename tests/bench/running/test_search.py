"""`bench search`: equal budgets, held-out images alone, and a command that measures the choice on test images."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.config.search_space import parse_space
from bench.config.suite_file import load_suite
from bench.core.errors import UsageError
from bench.data import catalog
from bench.reports import write_again
from bench.running.prepare import Options
from bench.running.search.objective import objective
from bench.running.search.outcome import searched
from bench.running.search.planned import plan_search
from bench.store.store import Store

SUITE = """
name = "moons"
description = "Points, for a search."
dataset = "two-moons"
backbone = "mlp-w8"
seeds = [0]
primary_eps = 0.1
holdout = 40
store_adversarial = "none"
defenses = ["standard"]
[recipe]
epochs = 2
batch_size = 90
augment = "none"
[evaluations.accuracy]
[evaluations.curvature]
"""
SPACES = ("--defense", "lcnn:lambda_beta=1e-4..1e-1", "--defense", "gradreg:lambda_gradient=0|0.01|0.1")


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "moons.toml"
    path.write_text(SUITE)
    return path


def tried(out: Path) -> list[Any]:
    return json.loads((out / "search.json").read_text())["defenses"]


def test_every_defense_gets_as_many_trials_and_the_best_is_chosen(cli: Callable[..., Any], suite, tmp_path):
    out = tmp_path / "out"
    command = ("search", "--suite", suite, *SPACES, "--defense", "standard", "--budget", 3, "--out", out, "--quiet")
    done = cli(*command)
    assert done.code == 0, done.err
    found = tried(out)
    assert [len(defense["trials"]) for defense in found] == [3, 3, 1]
    for defense in found:
        values = {trial["defense"]: trial["values"]["clean_accuracy"] for trial in defense["trials"]}
        assert values[defense["chosen"]] == max(values.values())
    with Store.open(out) as store:  # no test image was looked at, and none of those that chose was trained on
        data = catalog.load("two-moons")
        used = {str(cell.spec["data"]) for cell in store.cells("evaluation")}
        assert len(used) == 1
        assert data.test.fingerprint not in str([c.spec for kind in ("train", "evaluation") for c in store.cells(kind)])
        stored = len(list(store.cells("train")))
    assert "not on the test images of two-moons" in (out / "leaderboard.html").read_text()
    assert "on 40 held-out training images" in (out / "search.md").read_text()

    again = shlex.split(json.loads((out / "search.json").read_text())["command"])
    assert again[again.index("--seeds") + 1] == "1,2,3"  # fresh ones
    assert cli(*again[3:], "--out", tmp_path / "test", "--dry-run").out.splitlines()[-1] == "cells: 27, cached: 0"

    assert "cells: 14, cached: 14" in cli(*command, "--dry-run").out  # the same command has nothing to do
    more = cli(*(4 if part == 3 else part for part in command))
    assert more.code == 2  # three penalties are no four trials
    assert "at least 4 different settings of gradreg" in more.err
    with Store.open(out) as store:
        assert len(list(store.cells("train"))) == stored


def test_a_floor_makes_trials_ineligible(cli: Callable[..., Any], suite, tmp_path):
    out = tmp_path / "out"
    floors = ("--by", "curvature", "--at-least", "clean_accuracy=1.0", "--quiet")
    done = cli("search", "--suite", suite, *SPACES[:2], "--budget", 2, "--epochs", 1, "--out", out, *floors)
    assert done.code == 0, done.err
    assert [defense["chosen"] for defense in tried(out)] == [""]
    assert "no trial is eligible" in done.err
    board, sought = write_again(out), objective(load_suite(str(suite)), "curvature", {"clean_accuracy": 0.0})
    space = parse_space(SPACES[1])
    found = searched(board, {space: space.trials(2, 0)}, sought)[0]
    best = min(found.trials, key=lambda trial: trial.values["curvature"] or 0.0)
    assert found.chosen == best.defense  # lower is better there


def test_what_counts_by_default_is_the_weakest_attack_at_the_threat() -> None:
    assert objective(load_suite("digits"), None, {}).by == "pgd_l2_0.5"
    assert objective(load_suite("cifar10-linf"), None, {}).by == f"pgd_linf_{8 / 255:g}"
    assert objective(load_suite("two-moons"), None, {}).by == "clean_accuracy"
    both = objective(load_suite("digits"), "curvature", {"pgd_l2_0.1": 0.5})
    assert (both.higher, both.evaluations) == (False, ("accuracy", "curvature", "pgd_l2"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lcnn:lambda_beta=1..2", "--by", "pgd_l2_0.3"), "--by: expected a column"),
        (("lcnn:lambda_beta=1..2", "--at-least", "clean=0.5"), "--at-least: expected a column"),
        (("lcnn:lambda_beta=1..2", "--at-least", "clean_accuracy=good"), "--at-least: expected COLUMN=NUMBER"),
        (("lcnn",), "expected something to vary"),
        (("lcnn:lambda_beta=1..2", "--holdout", "5000"), "holdout: expected 0 to"),
    ],
)
def test_a_wrong_search_is_one_line(cli: Callable[..., Any], suite, tmp_path, arguments, message):
    done = cli("search", "--suite", suite, "--out", tmp_path / "o", "--budget", 2, "--defense", *arguments)
    assert done.code == 2
    assert message in done.err


def test_where_nothing_says_how_many_a_tenth_is_held_out() -> None:
    search = plan_search(Options(suite="digits"), ["lcnn:lambda_beta=1..2"], 2, None, {})
    assert (search.options.held_out, search.seeds) == (0, (0,))
    assert search.options.out == Path("results/digits-search")
    with pytest.raises(UsageError, match="holdout"):
        catalog_split(len(catalog.load("digits", train_limit=5).train) + 1)


def catalog_split(n: int) -> None:
    """Hold out more images than there are."""
    from bench.data.split import on_held_out

    on_held_out(catalog.load("digits", train_limit=5), n)
