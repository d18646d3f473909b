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


ATTACKED = """
[evaluations.accuracy]
[evaluations.pgd_l2]
eps = [0.1, 0.5]
steps = 1
rel_stepsize = 0.6
random_start = false
final_step = false
limit = 60
"""


@pytest.fixture(scope="session")
def weakly_attacked(tmp_path_factory, write_suite) -> Path:
    """Return a small board ranked by a short step of PGD, with all adversarial examples; not to be changed."""
    from bench.running import pipeline
    from bench.running.prepare import Options

    place = tmp_path_factory.mktemp("attacked")
    suite = write_suite(place / "tiny.toml", ["standard", "lcnn"], ATTACKED, epochs=4)
    suite.write_text('store_adversarial = "all"\n' + suite.read_text())
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 600}, out=place / "out", quiet=True))
    return place / "out"
