"""Help is there at once, `bench` alone says the first commands, and a missing package is one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

from bench.cli import evaluate, run

LOADED = """
import sys
import bench.cli.app as program
sys.argv = ["bench", *sys.argv[1:]]
try:
    program.main()
finally:
    heavy = {"torch", "pandas", "sklearn", "matplotlib", "rich.markdown", "typer.rich_utils"} & set(sys.modules)
    print(sorted(heavy), file=sys.stderr)
"""


def test_bench_alone_says_the_first_commands(cli: Callable[..., Any]) -> None:
    done = cli()
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert len(lines) < 15
    assert any(line.startswith("  bench run  ") for line in lines)
    assert "bench --help lists all commands" in lines[-1]


@pytest.mark.parametrize("group", ["suite", "store", "results"])
def test_a_group_alone_says_its_commands(cli: Callable[..., Any], group: str) -> None:
    done = cli(group)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: bench {group} ")
    assert "\nCommands:\n  " in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--limit", "0"], "--limit': expected a number greater than or equal to 1. See `bench run --help`."),
        (["compare", "a"], "Missing argument 'b'. See `bench compare --help`."),
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
    ],
)
def test_wrong_words_are_one_line_that_names_the_help(cli: Callable[..., Any], words: list[str], said: str) -> None:
    done = cli(*words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "suites"]])
def test_help_loads_no_library(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "[]"


def test_options_that_run_and_evaluate_share_are_the_same_options() -> None:
    ours, theirs = (
        {o.name: (o.opts, o.metavar, getattr(o, "help", None), o.default) for o in command.params}
        for command in (typer.main.get_command(run.commands), typer.main.get_command(evaluate.commands))
    )
    shared = ours.keys() & theirs.keys()
    assert shared >= {"suite", "data", "out", "device", "limit", "batch_size", "time_limit", "hang_limit", "dry_run"}
    assert {name: theirs[name] for name in shared} == {name: ours[name] for name in shared}


@pytest.mark.parametrize(("name", "package"), [("sklearn.datasets", "scikit-learn"), ("submitit", "submitit")])
def test_a_missing_package_is_one_line(cli: Callable[..., Any], monkeypatch: Any, name: str, package: str) -> None:
    from bench.cli import listing

    def missing(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(listing, "entries", missing)
    done = cli("list", "suites")
    assert done.code == 4
    assert done.err.splitlines() == [
        f"bench: expected the package {package}, which this command imports, got none. "
        f"Install it: pip install {package}."
    ]
