"""What runs outside the tests says what it should: the workflow, the hooks before a commit, versions, the changelog."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

import bench
from bench.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_command() -> None:
    """README, .ci/run and the workflow test by one and the same command."""
    found = re.search(r"^Pass the tests:\n\n```sh\n(.+)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert found is not None
    command = found[1]
    assert command in (ROOT / ".ci/run").read_text(encoding="utf-8").replace("--quiet ", "")
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["tests"]
    assert command in [step.get("run") for step in job["steps"]]
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == oldest


def test_a_release_waits_for_the_whole_museum() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert workflow[True]["push"]["tags"], "YAML reads the key `on` as true"
    job = workflow["jobs"]["museum"]
    assert job["if"] == "startsWith(github.ref, 'refs/tags/')"
    (gate,) = (step for step in job["steps"] if "timeout-minutes" in step)
    assert gate["run"].startswith("tox -e museum")
    assert gate["timeout-minutes"] <= 10
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert tox["testenv:museum"]["commands"].removesuffix(" {posargs}") == "python -m bench doctor --museum"


def test_readme_names_every_command() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands")[2].partition("## Cite")[0]
    named = set(re.findall(r"[`,] ?`?([a-z]+)\b", table))
    assert set(get_command(app).commands) <= named


def hooks() -> list[dict[str, object]]:
    """Return the hooks before a commit."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return [hook for repo in config["repos"] for hook in repo["hooks"]]


@pytest.mark.parametrize("hook", hooks(), ids=lambda hook: hook["id"])
def test_a_hook_names_a_program_and_files_that_exist(hook) -> None:
    words = shlex.split(hook["entry"])
    assert (
        find_spec(words[2] if words[:2] == ["python", "-m"] else words[0])
        or shutil.which(words[0])
        or words[0] == "python"
    )
    assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))


def test_this_python_and_torch_are_among_those_that_are_admitted() -> None:
    assert sys.version_info >= tuple(map(int, PROJECT["project"]["requires-python"].removeprefix(">=").split(".")))
    classifiers = PROJECT["project"]["classifiers"]
    assert [c for c in classifiers if c.endswith(("3.11", "3.12", "3.13"))]
    assert "torch>=2.10" in PROJECT["project"]["dependencies"]


def test_every_pinned_version_is_one_of_a_package_that_we_name() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = " ".join([*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)])
    known = {re.sub(r"[-_.]+", "-", word).lower() for word in re.findall(r"[A-Za-z][\w.-]*", named)}
    also = {"docutils", "pillow", "pydantic-core"}  # of packages that we name
    pinned = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in pinned} <= known | also
    assert len(pinned) == len(set(pinned))


def test_the_changelog_begins_with_what_is_not_released() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line.startswith("## ")) in ("## Unreleased", f"## {bench.__version__}")


def test_the_types_travel() -> None:
    assert (Path(bench.__file__).parent / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["bench"]
    assert PROJECT["tool"]["mypy"]["strict"] is True
