"""Shared by the tests of the documentation: pages run in a process and a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def run_page() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs the code of a page in a folder: `run_page(page, folder, *options)`."""

    def run(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        home = folder.parent / "home"  # nothing of the user's own is read or written
        home.mkdir(exist_ok=True)
        settings = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "BENCH_DATA": str(home)}
        return subprocess.run(
            [sys.executable, str(HERE / "run_page.py"), str(page), *options],
            cwd=folder,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
