"""docs/faults.md: every case names tests that exist and an exit code of the table, and no promised case is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What the design promises to handle, and the rows of docs/faults.md that say how.
PROMISED = {
    "kill -9 at random instants": ("`kill -9` at any instant", "many kills with mixed signals, also within a resume"),
    "Ctrl-C once": ("Ctrl-C once", "Ctrl-C once with `--engine ray` or `slurm`"),
    "Ctrl-C twice": ("Ctrl-C twice",),
    "SIGTERM": ("SIGTERM",),
    "two runs on one folder": ("two runs on one folder", "two different commands on one folder"),
    "20 starting together": ("20 processes starting together",),
    "stale lease of a dead process": ("the lease of a dead process",),
    "disk full in a chunk": ("disk full during a run", "disk full at any call of a write"),
    "disk full in the report": ("disk full during the report",),
    "read-only folder": ("read-only folder",),
    "truncated database": ("truncated database",),
    "newer database": ("newer database, or another program's",),
    "deleted exports": ("deleted exports",),
    "Ray worker killed": ("a worker of a cluster killed, requests and replies lost",),
    "Ray node killed": ("a node of a Ray cluster killed",),
    "task run twice": ("an order that two workers of a cluster compute",),
    "out of memory at B": ("out of memory at batch B",),
    "out of memory at 1": ("out of memory at one image",),
    "NaN or Inf logits": ("NaN or infinite logits",),
    "NaN or Inf gradients": ("NaN or infinite gradients",),
    "wrong shape, dtype, class count": ("wrong shape, dtype, class count",),
    "softmax head": ("softmax head",),
    "train mode": ("batch norm that stays in train mode",),
    "stateful model": ("stateful model",),
    "model that edits its input": ("model that edits its input",),
    "hang in forward": ("hang in forward",),
    "segfault or os._exit in a model": ("segmentation fault, abort, `os._exit`, `sys.exit`",),
    "100 MB on stdout": ("100 MB on stdout",),
    "last batch of size 1": ("last batch of one image",),
    "data file changed": ("data file changed",),
    "data file truncated": ("data file truncated",),
    "data file permuted": ("data file permuted",),
    "an HTML page as data file": ("an HTML page in its place",),
    "data changed between run and resume": ("data changed between run and resume",),
    "checkpoint truncated": ("checkpoint truncated",),
    "checkpoint with a flipped byte": ("checkpoint with a flipped bit",),
    "checkpoint with NaN": ("weights with NaN", "`evaluate`: weights with NaN"),
    "checkpoint with an oversized claim": (
        "checkpoint that claims a step outside its training, or more than there is",
        "`evaluate`: a file that claims more than there is",
    ),
    "checkpoint with wrong keys": (
        "checkpoint of another training, or with other keys",
        "`evaluate`: weights of another network, a factory or network that fails, hangs or ends its process",
    ),
    "same name with different weights": ("same name, other weights",),
    "unknown defense, suite, key": ("unknown defense, suite, key, option",),
    "eps negative, NaN, 128 instead of 128/255": ("eps negative, NaN, or 128 instead of 128/255",),
    "locale, time zone": ("locale and time zone",),
    "path with spaces and unicode": ("path with spaces, other scripts or bytes that are no Unicode",),
    "no GPU for a GPU request": ("a GPU asked for and not there",),
}
CODES = {"0", "1", "2", "3", "4", "5", "6", "7", "75", "130", "143"}


def rows() -> list[list[str]]:
    """Return the cells of every case: what, what you see, exit code, tests."""
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "case"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:50])
def test_a_case_names_its_exit_code_and_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4
    _, seen, code, tests = row
    assert seen
    assert {c.strip("()") for c in code.split(", ")} <= CODES
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert len(named) == tests.count("`") // 2 > 0
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


@pytest.mark.parametrize("case", PROMISED)
def test_a_promised_case_is_listed(case: str) -> None:
    assert set(PROMISED[case]) <= {row[0] for row in rows()}


def test_no_row_is_there_twice() -> None:
    assert len({row[0] for row in rows()}) == len(rows()) >= 60
