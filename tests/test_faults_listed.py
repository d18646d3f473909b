"""docs/faults.md: every case names tests that exist, and an exit code of the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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


def test_the_list_is_long() -> None:
    assert len(rows()) >= 60
