"""A precision that was chosen for its speed is tried against fp32 before a training; what it came to is on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.config.suite_file import load_suite
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.recipe import PAPER, Recipe
from bench.data import catalog
from bench.reports.board.precision import gate_sentences
from bench.running import plan as planning
from bench.running import precision_gate
from bench.running.plan import make_plan
from bench.running.precision_gate import Trial, check_precision
from bench.running.untrained import Builds
from bench.training.loop import TrainJob

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def job() -> TrainJob:
    digits, entry = catalog.load("digits", train_limit=120, limit=10), registry.defenses.get("lcnn")
    recipe = PAPER.with_overrides(Recipe(batch_size=40, augment="none", precision="bf16"), entry.recipe)
    return TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet-w4", 10, digits.shape, 0, digits.train)


def test_on_a_cpu_both_are_the_same_training(job) -> None:
    found = check_precision(job, CPU)
    assert json.loads(json.dumps(found)) == found
    assert found["images"] == 240
    assert {k: v[0] for k, v in found["differences"].items()} == {"loss": 0, "accuracy": 0, "curvature": 0}
    assert found["full"] | {"precision": "bf16"} == found["fast"]


@pytest.mark.parametrize(
    ("fast", "words"),
    [
        ({"loss": 1.04}, "loss off by 4 % (at most 3 %)"),
        ({"loss": float("nan")}, "loss off by nan % (at most 3 %)"),
        ({"accuracy": 0.3}, "accuracy off by 20 % (at most 9 %)"),
        ({"curvature": 4.9}, "curvature off by 104 % (at most 100 %)"),
        ({"curvature": 25.0}, "curvature off by 150 % (at most 100 %)"),
    ],
)
def test_what_differs_too_much_is_refused(job, monkeypatch, fast, words) -> None:
    full = Trial("fp32", 1.0, 0.5, 10.0)
    found = {"fp32": full, "bf16": replace(full, precision="bf16", **fast)}
    monkeypatch.setattr(precision_gate, "short_training", lambda job, device, precision: found[precision])
    with pytest.raises(BenchError) as refused:
        check_precision(job, CPU)
    assert str(refused.value) == (
        "training lcnn seed 0: expected bf16 to train as fp32 does for 2 short epochs, got "
        f"{words}. Use --precision fp32."
    )


def test_auto_alone_is_tried_and_factories_are_called_before_the_gpu_is_asked(
    tmp_path, write_suite, monkeypatch
) -> None:
    """A process that has asked the GPU anything cannot be copied: factories of others have their trial before."""
    order: list[str] = []
    monkeypatch.setattr(planning, "resolve_precision", lambda wanted, device: (order.append("GPU"), "bf16")[1])
    monkeypatch.setattr(Builds, "of", lambda self, job, of=Builds.of: (order.append("factory"), of(self, job))[1])
    digits = catalog.load("digits", train_limit=20, limit=10)
    suite = load_suite(str(write_suite(tmp_path / "tiny.toml", ["standard", "lcnn"], "[evaluations.accuracy]\n")))
    for wanted in ("auto", "bf16"):
        order.clear()
        plan = make_plan(suite.with_overrides(precision=wanted), digits, torch.device("cuda"), tmp_path / "out")
        assert order.index("GPU") == 2
        assert [run.gated for run in plan.runs] == [wanted == "auto"] * 2
        assert {run.job.recipe.precision for run in plan.runs} == {"bf16"}


def test_the_page_says_what_it_came_to() -> None:
    gate = {
        "images": 12800,
        "full": {"precision": "fp32"},
        "fast": {"precision": "bf16"},
        "differences": {"loss": [0.0077, 0.03], "accuracy": [0.0061, 0.09]},
    }
    runs = {0: SimpleNamespace(training={"precision_gate": gate}), 1: SimpleNamespace(training={})}
    assert list(gate_sentences(SimpleNamespace(runs=runs))) == [
        "Trained in bf16 (seed 0). Short trainings beforehand in it and in fp32, from the same seed on 12,800 images, "
        "differed in loss by 0.77\u00a0% (at most 3\u00a0%), accuracy by 0.61\u00a0% (at most 9\u00a0%)."
    ]
