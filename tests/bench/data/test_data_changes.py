"""Data that change between two commands: exactly the work that saw the changed images is planned anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.config.suite_file import load_suite
from bench.data.catalog import load
from bench.data.info import DATASETS
from bench.running.cells import key
from bench.running.plan import Plan, make_plan

SUITE = """
name = "tiny"
description = "Ten pictures."
dataset = "cifar10"
backbone = "convnet"
seeds = [0]
primary_eps = 0.1
defenses = ["standard"]
[evaluations.accuracy]
[evaluations.curvature]
limit = 3
[evaluations.pgd_l2]
eps = [0.1]
split = "train"
"""


def write(folder: Path, change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None) -> Path:
    draw = np.random.RandomState(0)
    arrays = {
        "x_train": draw.randint(0, 256, (8, 32, 32, 3)).astype(np.uint8), "y_train": np.arange(8),
        "x_test": draw.randint(0, 256, (6, 32, 32, 3)).astype(np.uint8), "y_test": np.arange(6),
        "classes": np.array(DATASETS["cifar10"].classes),
    }  # fmt: skip
    change(arrays)
    folder.mkdir(exist_ok=True)
    np.savez(folder / "pictures.npz", **arrays)
    return folder


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE)

    def make(change: Callable[[dict[str, np.ndarray]], None] = lambda arrays: None, **limits: int) -> Plan:
        dataset = load("cifar10", data_dir=write(tmp_path / "copy", change), **limits)
        suite = load_suite(path).with_overrides(limit=limits.get("limit"))
        return make_plan(suite, dataset, torch.device("cpu"), tmp_path / "out")

    return make


def cells(plan: Plan) -> dict[str, str]:
    """Return the training's id and the evaluations' keys, the model left out."""
    evaluations = {p.entry.key: key("evaluation", p.spec) for p in plan.evaluations}
    return {"train": plan.runs[0].cell.id, **evaluations}


def changed(before: Plan, after: Plan) -> set[str]:
    old, new = cells(before), cells(after)
    return {name for name in old if old[name] != new[name]}


def test_nothing_changed_means_nothing_anew(plan: Callable[..., Plan]) -> None:
    assert changed(plan(), plan()) == set()


def test_one_pixel_of_a_training_image(plan: Callable[..., Plan]) -> None:
    def touch(arrays: dict[str, np.ndarray]) -> None:
        arrays["x_train"][5, 0, 0, 0] ^= 1

    assert changed(plan(), plan(touch)) == {"train", "pgd_l2"}


def test_one_test_label_outside_the_first_three(plan: Callable[..., Plan]) -> None:
    fourth = int(plan().dataset.test.labels[3])

    def touch(arrays: dict[str, np.ndarray]) -> None:
        arrays["y_test"][fourth] = 9

    assert changed(plan(), plan(touch)) == {"accuracy"}


def test_permuted_pictures_under_the_old_labels(plan: Callable[..., Plan]) -> None:
    def touch(arrays: dict[str, np.ndarray]) -> None:
        arrays["x_test"] = arrays["x_test"][::-1]

    assert changed(plan(), plan(touch)) == {"accuracy", "curvature"}


def test_a_file_that_was_cut_to_fewer_pictures(plan: Callable[..., Plan]) -> None:
    def touch(arrays: dict[str, np.ndarray]) -> None:
        arrays["x_train"], arrays["y_train"] = arrays["x_train"][:7], arrays["y_train"][:7]

    assert changed(plan(), plan(touch)) == {"train", "pgd_l2"}


def test_a_wider_limit_keeps_what_saw_the_same_images(plan: Callable[..., Plan]) -> None:
    assert changed(plan(limit=4), plan(limit=5)) == {"accuracy", "pgd_l2"}  # curvature has its own limit of 3
    assert changed(plan(limit=8), plan(limit=100)) == set()  # there are no more images than that
