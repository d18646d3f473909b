"""Fixtures of the report tests: a synthetic board, large or small, without torch and without a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bench.reports.board.model import Board
from bench.reports.html import page


def _beside(name: str) -> ModuleType:
    """Import a helper that stands beside this file."""
    spec = importlib.util.spec_from_file_location(f"report_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_synthetic = _beside("synthetic")


@pytest.fixture(scope="session")
def fabricate() -> ModuleType:
    """Return fabricate.py: result folders with a real store and drawn outcomes."""
    return _beside("fabricate")


@pytest.fixture(scope="session")
def recompute() -> ModuleType:
    """Return recompute.py, the script that checks the page's table against the examples without bench."""
    return _beside("recompute")


@pytest.fixture(scope="session")
def recompute_ranks() -> ModuleType:
    """Return recompute_ranks.py, the script that checks ranks and pairs against the examples without bench."""
    return _beside("recompute_ranks")


@pytest.fixture(scope="session")
def make_board() -> Callable[..., Board]:
    """Return `make_board(**options) -> Board` of synthetic.py."""
    return _synthetic.make_board


@pytest.fixture(scope="session")
def board() -> Board:
    """Return the usual board: 8 defenses, 2 seeds, 200 images."""
    return _synthetic.make_board()


@pytest.fixture(scope="session")
def large_page() -> str:
    """Return the page of 20 defenses × 2 seeds × 1,000 colour images, pictures included."""
    names = {f"defense_{k:02d}": (0.3 + 0.02 * k, 9.0 - 0.3 * k, 40.0 / (k + 1), 1 + 0.2 * k) for k in range(20)}
    return page.render(_synthetic.make_board(names=names, n=1000, shape=(3, 32, 32), pictures=40))
