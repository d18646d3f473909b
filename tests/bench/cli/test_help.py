"""Help is there at once, `bench` alone says the first commands, and a missing package is one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

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


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list", "suites"]])
def test_help_loads_no_library(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "[]"


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
