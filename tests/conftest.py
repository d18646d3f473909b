"""Shared by all tests: quiet threads, the command line in this process, and where the real images are."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which wants a git binary
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic trainings on a GPU; read once a process

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run a command of bench in this process and return its exit code and output."""
    from bench.cli.app import main

    def call(*arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        text = capsys.readouterr()
        return Finished(int(stop.value.code or 0), text.out, text.err)

    return call


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Return the folder with real CIFAR images, beside the checkout or BENCH_TEST_DATA; skip if it is absent."""
    folder = Path(os.environ.get("BENCH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cifar10-jpeg").is_dir():
        pytest.skip("needs the real images (BENCH_TEST_DATA=DIR with cifar10-jpeg/ and cifar100-head/)")
    return folder
