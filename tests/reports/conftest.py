"""Fixtures of the report tests: a synthetic board, large or small, without torch and without a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.reports.board import Board

_spec = importlib.util.spec_from_file_location("report_synthetic", Path(__file__).with_name("synthetic.py"))
assert _spec is not None
assert _spec.loader is not None
_synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_synthetic)


@pytest.fixture(scope="session")
def make_board() -> Callable[..., Board]:
    """Return `make_board(**options) -> Board` of synthetic.py."""
    return _synthetic.make_board


@pytest.fixture(scope="session")
def board() -> Board:
    """Return the usual board: 8 defenses, 2 seeds, 200 images."""
    return _synthetic.make_board()
