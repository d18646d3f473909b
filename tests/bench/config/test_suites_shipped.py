"""The shipped suites against what they promise: data, defenses, budgets, and the paper's recipe to the letter."""

from __future__ import annotations

import pytest

from bench.config.suite import Suite
from bench.config.suite_file import load_suite, suites
from bench.core.recipe import PAPER
from bench.core.registry import defenses

NAMES = [str(entry["name"]) for entry in suites()]
SEVEN = ("standard", "lcnn", "gradreg", "lcnn_gradreg", "cure", "softplus_wd", "adversarial_training")
PAPER_SUITES = ("cifar10", "cifar100", "svhn")
OTHER_THREATS = ("two-moons", "randomised", "neighbours", "digits-linf", "digits-corruptions", "cifar10-linf")
BUDGETS = [0.05, 0.1, 0.15, 0.2, 0.5]
RADII = [0.001, 0.003, 0.01, 0.03, 0.1]


def limits(suite: Suite) -> dict[str, int | None]:
    return {e.key: e.limit for e in suite.evaluations}


def test_all_are_there() -> None:
    fast = {"cifar10-fast", "cifar100-fast"}
    others = {
        "digits",
        "two-moons",
        "randomised",
        "neighbours",
        "ablation",
        "architectures",
        "digits-linf",
        "digits-corruptions",
        "cifar10-linf",
        "cifar10-cpu",
    }
    assert set(NAMES) == {*others, *PAPER_SUITES, *fast}


@pytest.mark.parametrize("name", NAMES)
def test_loads_under_its_own_name(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite.description) > 40
    for spec in suite.defenses:
        recipe = suite.recipe_of(spec)
        assert all(value is not None for value in recipe.settings().values())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in OTHER_THREATS])
def test_measures_the_papers_budgets_and_radii(name: str) -> None:
    suite = load_suite(name)
    by_key = {e.key: e for e in suite.evaluations}
    core = ["accuracy", "pgd_l2", "autoattack_l2", "curvature", "stability", "bounds"]
    extra = {"trust", "breaking_l2"} | (
        {"curvature_train", "certificate"} if name not in ("ablation", "architectures") else set()
    )
    assert list(by_key)[:6] == core
    assert set(by_key) - set(core) == extra
    assert by_key["pgd_l2"].arguments["eps"] == BUDGETS
    assert by_key["pgd_l2"].arguments["steps"] == 40
    assert by_key["autoattack_l2"].arguments["eps"] == [suite.primary_eps]
    assert by_key["trust"].arguments["eps"] == [suite.primary_eps]
    assert by_key["stability"].arguments["radius"] == RADII
    assert by_key["accuracy"].limit is None
    assert suite.holdout == 0
    assert suite.store_adversarial == "primary"


@pytest.mark.parametrize("name", PAPER_SUITES)
def test_paper_suites_are_the_papers(name: str) -> None:
    suite = load_suite(name)
    assert (suite.dataset, suite.backbone, suite.seeds, suite.primary_eps) == (name, "resnet18", (0, 1), 0.1)
    assert tuple(map(str, suite.defenses)) == SEVEN
    assert (suite.audit, suite.repeat) == (32, 200)
    assert limits(suite) == {
        "accuracy": None, "pgd_l2": None, "autoattack_l2": 1000, "curvature": 1000, "stability": 1000, "bounds": 32,
        "curvature_train": 1000, "certificate": 100, "trust": 512, "breaking_l2": 1000,
    }  # fmt: skip
    for spec in suite.defenses:
        assert suite.recipe_of(spec).settings() == PAPER.settings(), str(spec)


def test_digits_is_the_small_default() -> None:
    suite = load_suite("digits")
    assert tuple(map(str, suite.defenses)) == (*SEVEN, "vanilla")
    assert (suite.seeds, suite.primary_eps, suite.audit, suite.repeat, suite.backbone) == ((0, 1), 0.5, 0, 0, "convnet")
    assert (suite.recipe.epochs, suite.recipe.schedule, suite.recipe.augment) == (30, "onecycle", "none")
    assert limits(suite)["autoattack_l2"] == 64
    assert limits(suite)["bounds"] == 16
    assert next(e.seed for e in suite.evaluations if e.key == "autoattack_l2") == 0


def test_two_moons_draws_figure_1() -> None:
    suite = load_suite("two-moons")
    assert [spec.name for spec in suite.defenses] == ["standard", "lcnn"]
    assert {"accuracy", "curvature"} <= limits(suite).keys()
    assert (len(suite.seeds), suite.holdout) == (3, 280)  # the held-out points chose the penalties
    assert not any("eps" in e.arguments for e in suite.evaluations)  # no attack on points in the plane
    assert suite.backbone == "mlp-w128"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_fast_suites_differ_only_in_length_and_in_what_a_gpu_may_round(name: str) -> None:
    fast, paper = load_suite(f"{name}-fast"), load_suite(name)
    assert tuple(map(str, fast.defenses)) == (*SEVEN, "vanilla")
    assert fast.seeds == (0,)
    different = {k for k, v in fast.recipe.settings().items() if v != paper.recipe.settings()[k]}
    assert different == {"epochs", "schedule", "precision"}
    assert (fast.recipe.epochs, fast.recipe.schedule, fast.recipe.precision) == (30, "onecycle", "auto")
    in_fp32 = [e.arguments | ({"search": "fp32"} if "search" in e.arguments else {}) for e in fast.evaluations]
    assert in_fp32 == [e.arguments for e in paper.evaluations]
    assert [e.key for e in fast.evaluations if e.arguments.get("search") == "tf32"] == ["pgd_l2", "autoattack_l2"]


def test_the_cpu_suite_holds_the_papers_rows_in_a_network_that_two_cores_can_train() -> None:
    suite = load_suite("cifar10-cpu")
    assert set(SEVEN) < set(map(str, suite.defenses))  # with the penalties of the paper's code
    assert (suite.dataset, suite.primary_eps, len(suite.seeds)) == ("cifar10", 0.1, 3)
    assert (limits(suite)["pgd_l2"], limits(suite)["autoattack_l2"], limits(suite)["trust"]) == (1000, 500, 200)
    small, paper = suite.recipe.settings(), PAPER.settings()
    assert {k for k in small if small[k] != paper[k]} == {"epochs", "schedule"}


def test_ablation_takes_each_part_away() -> None:
    suite = load_suite("ablation")
    switched_off = {str(d).partition(":")[2] for d in suite.defenses}
    parts = {"conv_spectral_norm=false", "lipschitz_bn=false", "learn_beta=false", "centered=false"}
    assert parts <= switched_off
    assert {"standard", "lcnn"} <= set(map(str, suite.defenses))
    assert sum("lambda_" in str(d) for d in suite.defenses) >= 3
    assert suite.recipe == PAPER


def test_architectures_holds_both_networks() -> None:
    suite = load_suite("architectures")
    assert {suite.backbone_of(d) for d in suite.defenses} == {"resnet34", "vgg11"}
    assert suite.recipe == PAPER


def test_every_defense_is_in_some_suite() -> None:
    used = {spec.name for name in NAMES for spec in load_suite(name).defenses}
    shipped = {entry.name for entry in defenses if entry.function.__module__.startswith("bench.")}
    assert shipped - {"torchlip"} <= used  # which needs an optional library
