"""Parse a command of a page, option by option, without running it."""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from typer.main import get_command

from bench.cli.app import app
from bench.config.search_space import parse_space
from bench.config.suite_file import load_suite
from bench.running import campaign

ROOT = Path(__file__).resolve().parents[2]


class Parsed(Exception):
    """A benchmark's options were parsed, and it would begin now."""


def look_at(words: Sequence[str]) -> None:
    """Check that a command and its options are there.

    Args:
        words: of the command.

    Raises:
        AssertionError: a command, option, file, extra or environment that there is not.
    """
    if words[0] == "bench":
        _bench(words[1:])
    elif words[:2] == ["python", "-m"]:
        _module(words[2], words[3:])
    elif words[0] == "pip":
        _pip(words[1:])
    elif words[0] == "tox":
        _tox(words[1:])
    elif words[0] == "torchrun":
        look_at(["python", *words[words.index("-m") :]])
    elif words[0] == "uvx":
        look_at(words[words.index("bench") :])
    else:
        done = subprocess.run(["bash", "-nc", " ".join(words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _bench(arguments: Sequence[str]) -> None:
    """Parse a command of bench; also the suite, the defenses and the evaluations."""
    command, rest, name = get_command(app), list(arguments), "bench"
    while known := getattr(command, "commands", None):
        name = next(word for word in rest if not word.startswith("-"))
        assert name in known, f"bench has no command {name}"
        command = known[name]
        rest.remove(name)
    given = command.make_context(name, rest).params
    if "suite" in given:
        defenses, evaluations = (tuple(given.get(key) or ()) for key in ("defense", "evaluation"))
        if name == "search":
            defenses = tuple(parse_space(text).trials(given["budget"], 0)[0] for text in defenses)
        load_suite(_found(given["suite"])).with_overrides(defenses=defenses, evaluations=evaluations)


def _found(suite: str) -> str:
    """Return a suite's name, or its file: in the current folder, else an example of the documentation."""
    examples = sorted((ROOT / "docs" / "examples").rglob(Path(suite).name)) if suite.endswith(".toml") else []
    return str(examples[0]) if examples and not Path(suite).exists() else suite


def _module(name: str, arguments: Sequence[str]) -> None:
    """Parse the arguments of `python -m`."""
    if name == "bench":
        _bench(arguments)
    elif name == "bench.running.campaign":
        campaign.parser().parse_args(list(arguments))
    elif name.startswith("benchmarks."):
        _benchmark(name, arguments)
    elif name == "pytest":
        files = [a for a in arguments if "/" in a]
        assert all((ROOT / file.split("::")[0]).exists() for file in files), files
    else:
        assert importlib.util.find_spec(name), f"there is no module {name}"


def _benchmark(name: str, arguments: Sequence[str]) -> None:
    """Run a benchmark up to the point where its options are parsed; one without options is only looked up."""
    text = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    if "parse_args(" not in text:
        assert not arguments or "sys.argv" in text
        return
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise Parsed

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(sys, "argv", [name, *arguments]),
    ):
        try:
            runpy.run_module(name, run_name="__main__")
        except Parsed:
            return
    raise AssertionError(f"{name} did not parse its options")


def _pip(arguments: Sequence[str]) -> None:
    """Check the extras of an install from the checkout."""
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments[1:]:
        if found := re.fullmatch(r"(\.|adversarial-bench)\[([\w,-]+)\]", word):
            assert set(found[2].split(",")) <= set(project["optional-dependencies"]), word


def _tox(arguments: Sequence[str]) -> None:
    """Check the environment of `tox -e`."""
    known = configparser.ConfigParser()
    known.read(ROOT / "tox.ini")
    if "-e" in arguments:
        name = arguments[arguments.index("-e") + 1]
        assert f"testenv:{name}" in known, name
