"""The evaluation of common corruptions: its mean, its arguments, and a small real run with its board."""

from __future__ import annotations

import csv
import json
import re

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import UsageError
from bench.core.registry import evaluations
from bench.evaluations.corruptions import corruptions


class Brightest(nn.Module):
    """Class 1 where the mean of the pixels is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        over = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-over, over], 1)


def test_the_mean_is_that_of_the_copies() -> None:
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8
    columns = corruptions(Brightest(), x, torch.zeros(6, dtype=torch.long), seed=1)
    copies = [values for name, values in columns.items() if name != "corruption_accuracy"]
    assert len(copies) == 50
    assert torch.equal(columns["corruption_accuracy"], torch.stack(copies).double().mean(0))
    bright = [bool(columns[f"corruption_brightness_{s}_correct"].any()) for s in (1, 5)]
    assert bright == [True, False], "light moves every image over the half"


def test_some_corruptions_and_severities_alone() -> None:
    x = torch.rand(3, 3, 8, 8)
    y = torch.zeros(3, dtype=torch.long)
    columns = corruptions(Brightest(), x, y, corruption=("jpeg", "haze"), severity=(5, 2))
    assert list(columns)[1:] == [f"corruption_{name}_{s}_correct" for name in ("jpeg", "haze") for s in (2, 5)]
    with pytest.raises(UsageError, match="at least one corruption and severity, got none"):
        corruptions(Brightest(), x, y, severity=())


def test_every_column_says_its_scale_and_that_it_is_ours() -> None:
    columns = evaluations.get("corruptions").columns
    assert len(columns) == 11
    assert all("no number compares with CIFAR-10-C" in column.source for column in columns.values())
    assert "0.04, 0.08, 0.12, 0.18, 0.26" in columns["corruption_gaussian_noise_{severity}_correct"].description


def test_the_suite_in_small(tmp_path, cli) -> None:
    out = tmp_path / "board"
    small = ["--defense", "standard", "--epochs", "1", "--train-limit", "200", "--limit", "12"]
    chosen = [o for name in ("accuracy", "corruptions", "pgd_l2") for o in ("--evaluation", name)]
    assert cli("run", "--suite", "digits-corruptions", *small, *chosen, "--out", out).code == 0
    table = pd.read_parquet(out / "examples.parquet")
    flags = [name for name in table if re.fullmatch(r"corruption_\w+_[1-5]_correct", name)]
    assert len(flags) == 50
    row = next(csv.DictReader((out / "leaderboard.csv").read_text().splitlines()))
    mean = float(row["corruption_accuracy"])
    assert mean == pytest.approx(table[flags].astype(float).to_numpy().mean(), abs=1e-12)
    assert float(row["corruption_accuracy_low"]) < mean < float(row["corruption_accuracy_high"])
    info = json.loads((out / "model_info" / "digits" / "corruptions" / "standard.json").read_text())
    assert (info["eps"], info["corruptions_acc"]) == (None, f"{100 * mean:.2f}")
    assert "autoattack_acc" not in info
    assert "not CIFAR-10-C's" in info["footnote"]
    page = (out / "leaderboard.html").read_text()
    block = page[page.index("Accuracy under common corruptions") :]
    line = re.search(r"Shot noise</th>(.*?)</tr>", block, re.S)
    shown = re.findall(r">(\d+)</td>", line[1]) if line else []
    means = [100 * table[f"corruption_shot_noise_{s}_correct"].astype(float).mean() for s in range(1, 6)]
    assert shown[:5] == [f"{m:.0f}" for m in means]
    assert "no number compares with CIFAR-10-C" in block
