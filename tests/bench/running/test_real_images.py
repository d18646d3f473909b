"""The true ResNet-18 path on real CIFAR images: the README's command, smaller by default, whole when slow."""

import json

import pandas as pd
import pytest


def call(cli, suite, data, out, *arguments):
    done = cli("run", "--suite", suite, "--data", data, "--out", out, "--seeds", 0, "--epochs", 1, *arguments)
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text())
    return pd.read_csv(out / "leaderboard.csv"), manifest


@pytest.mark.parametrize(
    ("suite", "name", "classes"), [("cifar10", "cifar10-jpeg", 10), ("cifar100", "cifar100-head", 100)]
)
def test_the_board_names_the_data_for_what_it_is(cli, real_images, tmp_path, suite, name, classes):
    out = tmp_path / "out"
    board, manifest = call(cli, suite, real_images, out, "--defense", "lcnn", "--train-limit", 16, "--limit", 2,
                           "--evaluation", "accuracy")  # fmt: skip
    assert list(board["defense"]) == ["lcnn"]
    assert board["n"].iloc[0] in (0, 2)
    assert manifest["data"]["name"] == name
    assert manifest["data"]["original"] is False
    assert len(manifest["data"]["classes"]) == classes
    assert name in (out / "leaderboard.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["cifar10", "cifar100"])
def test_the_readme_command(cli, real_images, tmp_path, suite):
    board, _ = call(cli, suite, real_images, tmp_path / "out", "--defense", "standard", "--defense", "lcnn",
                    "--train-limit", 256, "--limit", 8, "--evaluation", "accuracy", "--evaluation", "pgd_l2",
                    "--evaluation", "curvature", "--evaluation", "stability")  # fmt: skip
    assert {"clean_accuracy", "pgd_l2_0.1", "curvature", "stability_0.1"} <= set(board.columns)


@pytest.mark.slow
def test_autoattack_on_one_image(cli, real_images, tmp_path):
    board, _ = call(cli, "cifar10", real_images, tmp_path / "out", "--defense", "lcnn", "--train-limit", 64,
                    "--limit", 1, "--evaluation", "autoattack_l2")  # fmt: skip
    assert board["autoattack_l2_0.1"].between(0, 1).all()
