"""The schema that editors check a suite file with says what the run says: both are made of one declaration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bench.config.suite_file import suites
from bench.config.suite_schema import suite_schema

ROOT = Path(__file__).resolve().parents[3]
GOOD = """
name = "mine"
description = "Mine."
dataset = "digits"
backbone = "convnet"
seeds = [0, 1]
primary_eps = 0.5
defenses = ["standard", "lcnn:lambda_beta=0.01,epochs=3"]
[recipe]
epochs = 2
[evaluations.pgd_l2]
eps = [0.5, "8/255"]
steps = 3
[evaluations.on_train]
evaluation = "curvature"
split = "train"
limit = 10
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = suite_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_an_editor_reads_it_in_no_time() -> None:
    """Each evaluation is described once, whatever its table is called: a square of them were four megabytes."""
    assert len(json.dumps(suite_schema(), indent=2)) < 400_000


@pytest.mark.parametrize("name", [str(listed["name"]) for listed in suites()])
def test_every_suite_that_ships_validates(validator: Draft202012Validator, name: str) -> None:
    content = tomllib.loads((ROOT / "bench" / "suites" / f"{name}.toml").read_text(encoding="utf-8"))
    assert not [error.message for error in validator.iter_errors(content)]


@pytest.mark.parametrize(
    "eps", ["primary_eps = 0.5", 'primary_eps = "8/255"', 'threat = {norm = "linf", eps = "8/255"}']
)
def test_a_suite_of_ones_own_validates(validator: Draft202012Validator, eps: str) -> None:
    assert not list(validator.iter_errors(tomllib.loads(GOOD.replace("primary_eps = 0.5", eps))))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "mine"', 'nam = "mine"'),
        ("seeds = [0, 1]", "seeds = [0, 0]"),
        ("seeds = [0, 1]", "seeds = [-1]"),
        ("seeds = [0, 1]", ""),
        ('"standard"', '"standart"'),
        ("lambda_beta=", "lambda_gama="),
        ("epochs = 2", "epochz = 2"),
        ("epochs = 2", "epochs = 0"),
        ("steps = 3", "stepz = 3"),
        ("steps = 3", "steps = 0"),
        ("steps = 3", 'steps = "3"'),
        ("pgd_l2", "pgd_l3"),
        ('"curvature"', '"curvture"'),
        ('split = "train"', 'split = "val"'),
        ("limit = 10", "limit = 0"),
        ("limit = 10", "stepz = 1"),
    ],
)
def test_what_a_run_refuses_an_editor_marks(validator: Draft202012Validator, old: str, new: str) -> None:
    assert old in GOOD
    assert list(validator.iter_errors(tomllib.loads(GOOD.replace(old, new))))


def test_keys_say_what_they_are(validator: Draft202012Validator) -> None:
    definitions = validator.schema["$defs"]
    for table in (validator.schema, *(definitions[name] for name in ("RecipeTable", "DataTable", "Threat"))):
        assert "Attributes:" not in table["description"]
        for name, part in table["properties"].items():
            assert part["description"], name
    assert definitions["RecipeTable"]["properties"]["precision"]["description"].endswith("judged in fp32.")
    assert definitions["curvature.evaluation"]["properties"]["limit"]["description"]
    assert {"name", "description", "dataset", "backbone", "seeds", "defenses", "evaluations"} == set(
        validator.schema["required"]
    )


def test_suite_check_says_what_would_run(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    done = cli("suite", "check", path)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "mine on digits, convnet, ranked by l2 0.5",
        "trains 2 defenses with 2 seeds (0, 1):",
        "  standard: 2 epochs, step, lr 0.1, batches of 128",
        "  lcnn:epochs=3,lambda_beta=0.01: 3 epochs, step, lr 0.1, batches of 128",
        "evaluates each of them by:",
        *done.out.splitlines()[5:7],
        "trainings: 4, evaluations: 8 (and those that come with an attack by themselves: `run --dry-run` lists every "
        "cell)",
    ]
    assert done.out.splitlines()[5].startswith("  pgd_l2 on all test images: eps = [0.0313725, 0.5], search = fp32")
    assert done.out.splitlines()[6].startswith("  on_train (curvature) on the first 10 train images: steps = 10")
    assert json.loads(cli("suite", "check", path, "--json").out)["trainings"] == 4
    path.write_text(GOOD.partition("[evaluations.pgd_l2]")[0] + "[evaluations.accuracy]\n")
    assert cli("suite", "check", path).out.startswith("mine on digits, convnet, no attack that ranks\n")
    path.write_text(GOOD.replace("steps = 3", "stepz = 3").replace("seeds", "sedes"))
    broken = cli("suite", "check", path)
    assert (broken.code, len(broken.err.splitlines())) == (2, 2)


def test_a_file_that_is_not_there_is_named_with_the_command(cli: Callable[..., Any]) -> None:
    suite = cli("suite", "check", "no/such.toml")
    assert (suite.code, suite.err) == (
        2,
        "suite check: expected a suite's name or a TOML file, got 'no/such.toml', which is none. Check the path.\n",
    )
    code = cli("check", "no/such.py")
    assert (code.code, code.err) == (
        2,
        "check: expected a Python file, got 'no/such.py', which is none. Check the path.\n",
    )


def test_suite_schema_is_written(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "suite.schema.json"
    assert cli("suite", "schema", "--to", path).code == 0
    assert json.loads(path.read_text()) == json.loads(cli("suite", "schema").out) == suite_schema()
