"""Other people's checkpoints as they are published: four CIFAR-10 networks, and the ResNet that AutoAttack ships."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest

import bench
from bench.core.hashing import sha256

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "nets"
SMALL = ("--limit", 24, "--evaluation", "accuracy", "--evaluation", "pgd_l2", "--device", "cpu")


def test_four_published_networks_are_four_rows(tmp_path, cli, real_images):
    nets = tomllib.loads((real_images / "nets" / "nets.toml").read_text())
    for name, facts in nets.items():
        weights = real_images / "nets" / f"{name}.safetensors"
        head = ("evaluate", "--suite", EXAMPLE / "cifar10-nets.toml", "--data", real_images, "--out", tmp_path / "out")
        model = ("--model", f"{EXAMPLE / 'nets.py'}:{name.replace('-', '_')}", "--weights", weights)
        done = cli(*head, *model, "--source", facts["source"], *SMALL)
        assert done.code == 0, done.err
        assert f"{weights.name} (SHA-256 {sha256(weights)[:12]})" in done.err
    board = bench.load_results(tmp_path / "out").leaderboard.set_index("defense")
    assert set(board.index) == set(nets)
    assert board["rank"].notna().all()
    for name, facts in nets.items():  # 24 images of the 1,000 that the percentages are of
        assert board.loc[name, "clean_accuracy"] == pytest.approx(facts["clean"] / 100, abs=0.25)


def test_the_checkpoint_that_autoattack_ships_is_a_row(tmp_path, cli, real_images):
    spec = importlib.util.find_spec("pyautoattack")
    assert spec is not None
    assert spec.origin is not None
    weights = Path(spec.origin).parent / "examples" / "model_test.pt"
    if not weights.is_file():
        pytest.skip("this copy of pyautoattack has no examples/model_test.pt")
    head = ("evaluate", "--suite", EXAMPLE / "cifar10-nets.toml", "--data", real_images, "--out", tmp_path / "out")
    model = ("--model", f"{EXAMPLE / 'nets.py'}:autoattack_resnet", "--weights", weights)
    done = cli(*head, *model, "--limit", 8, "--evaluation", "accuracy", "--device", "cpu")
    assert done.code == 0, done.err
    board = bench.load_results(tmp_path / "out").leaderboard
    assert board.loc[0, "clean_accuracy"] >= 0.75
    assert board.loc[0, "defense"] == "model_test"
