"""Shared by the tests of runs: a small suite on digits, written as a file as a user would."""

from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
name = "tiny"
description = "A few defenses on a few digits."
dataset = "digits"
backbone = "convnet"
seeds = [0]
primary_eps = {primary_eps}
defenses = {defenses}
[recipe]
epochs = {epochs}
batch_size = 50
schedule = "onecycle"
augment = "none"
"""


@pytest.fixture(scope="session")
def write_suite() -> Callable[..., Path]:
    """Return what writes a suite: `write_suite(path, defenses, evaluations, primary_eps=0.5, epochs=8)`."""

    def write(path: Path, defenses: list[str], evaluations: str, *, primary_eps: float = 0.5, epochs: int = 8) -> Path:
        head = HEAD.format(primary_eps=primary_eps, defenses=str(defenses).replace("'", '"'), epochs=epochs)
        path.write_text(head + evaluations)
        return path

    return write
