"""Every number that anything registered takes has a range, and values outside it are refused in one line."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.config.evaluation_config import parse_evaluation
from bench.config.recipe_table import recipe_fields
from bench.config.setting import Setting, settable
from bench.config.suite_file import load_suite
from bench.config.validation import check, check_defaults, read
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.records import Registered

TOO_LARGE = [10**26, -(10**26), 10**5000]
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
SHAPE = (1, 8, 8)


def entries() -> Iterator[Registered]:
    yield from registry.defenses
    yield from registry.attacks
    yield from registry.evaluations


def numbers() -> Iterator[tuple[str, Setting]]:
    """Yield every number that a suite file or a defense spec may set, by a name for the test."""
    for entry in entries():
        for name, setting in settable(entry).items():
            if setting.kind in (int, float):
                yield f"{entry.name}.{name}", setting
    for name, setting in recipe_fields().items():
        if setting.kind in (int, float):
            yield f"recipe.{name}", setting


NUMBERS = dict(numbers())


def outside(setting: Setting) -> Iterator[float]:
    """Yield values just outside the declared range, and those that no number may be."""
    for mark in getattr(setting.item, "__metadata__", ()):
        for bound in mark if hasattr(mark, "__iter__") else (mark,):
            for name, value in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
                if (limit := getattr(bound, name, None)) is not None:
                    yield limit + value
    yield from TOO_LARGE if setting.kind is int else NOT_FINITE


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_refused(name: str) -> None:
    setting = NUMBERS[name]
    for value in outside(setting):
        with pytest.raises(UsageError) as caught:
            check(name, [value] if setting.many else value, setting)
        assert_one_line(caught.value, name)


@pytest.mark.parametrize("name", [n for n in NUMBERS if not n.endswith(".eps")])
def test_a_number_has_a_lower_end(name: str) -> None:
    """Radii of attacks are checked against the box instead, as they depend on the data."""
    setting = NUMBERS[name]
    if name == "recipe.milestones":
        return  # rising fractions of the epochs, checked together
    with pytest.raises(UsageError):
        check(name, [-(2.0**62)] if setting.kind is float else -(2**62), setting)


@pytest.mark.parametrize("name", [n for n in NUMBERS if n.endswith(".eps")])
@pytest.mark.parametrize("eps", [-0.1, 128.0, 10**26, float("nan"), float("inf")])
def test_a_radius_outside_the_box_is_refused(name: str, eps: float) -> None:
    evaluation = name.removesuffix(".eps")
    if evaluation not in registry.evaluations:
        return
    with pytest.raises(UsageError) as caught:
        parse_evaluation("s.toml: evaluations", evaluation, {"eps": [eps]}, SHAPE)
    assert_one_line(caught.value, "s.toml")


@pytest.mark.parametrize("entry", [*entries()], ids=lambda e: e.name)
def test_defaults_are_in_their_own_range(entry: Registered) -> None:
    check_defaults(entry.name, entry.hyperparameters, settable(entry))


def assert_one_line(error: UsageError, where: str) -> None:
    text = str(error)
    assert text.startswith(where)
    assert len(text.splitlines()) == 1
    assert len(text) < 400
    assert error.exit_code == 2


def bad_default(*, rate: float = float("nan")) -> None:
    """Have a default that is not finite."""


def huge_default(*, steps: int = 10**26) -> None:
    """Have a default that no file can hold."""


def hostile_default(*, word: str = "\x1b[31m") -> None:
    """Have a default that a terminal would obey."""


@pytest.mark.parametrize("function", [bad_default, huge_default, hostile_default])
def test_a_default_that_nobody_could_set_is_refused(function: Any) -> None:
    entry = Registered("theirs", function, "here", 1)
    with pytest.raises(UsageError, match=r"defense theirs: default of \w+: expected"):
        check_defaults("defense theirs", entry.hyperparameters, settable(entry))


@pytest.mark.parametrize("word", ["\x1b[31m", "a\nb", "\ud800", "x" * 201])
def test_a_word_is_printable_and_short(word: str) -> None:
    with pytest.raises(UsageError, match="printable characters") as caught:
        read("d:word", word, Setting(str))
    assert str(caught.value).isprintable()


SUITE = """
name = "mine"
description = "x"
dataset = "digits"
backbone = "convnet"
seeds = [0]
primary_eps = 0.5
defenses = ["standard"]
[recipe]
[evaluations.accuracy]
[evaluations.pgd_l2]
eps = [0.5]
"""
SUITES = {
    "seed": ("seeds = [0]", f"seeds = [{10**26}]"),
    "seed of thousands of digits": ("seeds = [0]", f"seeds = [{'9' * 5000}]"),
    "learning rate": ("[recipe]", "[recipe]\nlr = nan"),
    "epochs": ("[recipe]", "[recipe]\nepochs = -3"),
    "milestones": ("[recipe]", "[recipe]\nmilestones = [nan]"),
    "steps": ("eps = [0.5]", "eps = [0.5]\nsteps = 0"),
    "restarts": ("eps = [0.5]", "eps = [0.5]\nrestarts = 0"),
    "limit": ("eps = [0.5]", f"eps = [0.5]\nlimit = {10**26}"),
    "evaluation's seed": ("eps = [0.5]", "eps = [0.5]\nseed = -1"),
    "audit": ("seeds = [0]", f"seeds = [0]\naudit = {10**26}"),
    "holdout": ("seeds = [0]", "seeds = [0]\nholdout = -1"),
    "primary eps": ("primary_eps = 0.5", "primary_eps = inf"),
    "nested lists": ("seeds = [0]", f"seeds = {'[' * 5000}0{']' * 5000}"),
    "nested tables": ("seeds = [0]", f"seeds = {'{a=' * 5000}0{'}' * 5000}"),
    "nested keys": ("[recipe]", f"[{'.'.join('a' * 5000)}]\n[recipe]"),
    "a name with an escape": ("[evaluations.accuracy]", '[evaluations."\\u001b[31m"]\nevaluation = "accuracy"'),
}


@pytest.mark.parametrize("case", SUITES)
def test_a_suite_with_a_number_out_of_range_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    old, new = SUITES[case]
    path = tmp_path / "s.toml"
    path.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    assert_one_line(caught.value, "s.toml")
    assert str(caught.value).isprintable()


def test_the_suite_is_right_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(SUITE)
    assert load_suite(path).name == "mine"


def test_a_direct_call_of_an_attack_is_held_to_its_ranges() -> None:
    import importlib

    import torch

    tried = 0
    for entry in registry.attacks:
        if not entry.function.__module__.startswith("bench.attacks."):
            continue  # what another test has included
        attack = getattr(importlib.import_module(entry.function.__module__), entry.name)
        for name, setting in settable(entry).items():
            if setting.many or setting.kind not in (int, float) or name == "eps":
                continue
            assert typing.get_args(setting.item), "a range is declared"
            low = next(iter(outside(setting)))
            with pytest.raises(UsageError, match=f"{entry.name}: {name}: expected a number"):
                attack(torch.nn.Flatten(), torch.rand(2, 1, 2, 5), torch.tensor([1, 2]), eps=0.1, **{name: low})
            tried += 1
    assert tried >= 10
