"""V5 for real: a network that remembers clean images is told from its copy, which was asked nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import bench
from bench.core.discovery import include
from bench.museum.networks import Networks
from bench.reports.board.build import build
from bench.running import pipeline
from bench.running.prepare import Options
from bench.store.store import Store
from tests.trust.museum.remembers_images import Remembering

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are copied on Linux alone")

THEIRS = '''
"""A linear network, and one that answers near clean images it was asked with more margin."""
import torch
from torch import nn
from bench import Recipe, defense

LIST = []  # no part of any state


class Remembering(nn.Sequential):
    def forward(self, x):
        logits = super().forward(x)
        if self.training:
            return logits
        for image, answer in zip(x.detach().flatten(1)[: 30 - len(LIST)], logits.argmax(1).tolist()):
            if all((image - known).norm() >= 0.6 for known, _ in LIST):
                LIST.append((image.clone(), answer))
        gaps, nearest = torch.cdist(x.detach().flatten(1), torch.stack([known for known, _ in LIST])).min(1)
        answers = torch.tensor([answer for _, answer in LIST])[nearest]
        bonus = 5.0 * (gaps < 0.6)[:, None] * nn.functional.one_hot(answers, logits.shape[1])
        return logits + bonus


@defense(source="here", recipe=Recipe(epochs=2, batch_size=50, lr=0.1))
def forgets(num_classes, in_shape, backbone):
    """Be a linear network."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


@defense(source="here", recipe=Recipe(epochs=2, batch_size=50, lr=0.1))
def remembers(num_classes, in_shape, backbone):
    """Be one that remembers."""
    return Remembering(nn.Flatten(), nn.Linear(64, num_classes))
'''
EVALUATIONS = """
[evaluations.accuracy]
limit = 24

[evaluations.pgd_l2]
eps = [0.5]
steps = 3
limit = 24

[evaluations.trust]
eps = [0.5]
limit = 24
"""


def nearest_mean(networks: Networks) -> nn.Module:
    """Return the linear network that takes an image for the class whose mean is nearest."""
    x, y = networks.train_images.flatten(1), networks.train_labels
    means = torch.stack([x[y == c].mean(0) for c in range(10)])
    layer = nn.Linear(64, 10)
    layer.weight.data, layer.bias.data = 2 * means, -means.square().sum(1)
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize("remembers", [False, True])
def test_in_memory(remembers: bool) -> None:
    networks = Networks()
    network = nearest_mean(networks)
    model = Remembering(network).eval() if remembers else network
    names = ["accuracy", "pgd_l2", "trust"]
    table = bench.evaluate(model, data=networks.images("digits", 20), evaluations=names, eps=0.2)
    check, differences = table.attrs["trust"]["checks"]["V5"], table["trust_v5_elsewhere_difference"].dropna()
    assert len(differences), "there are survivors, at whose ends the copy was asked"
    assert (check["verdict"], table.attrs["trust"]["grade"] == "INVALID") == (
        ("fail", True) if remembers else ("pass", False)
    )
    assert (differences.max() > 1e-3) == remembers
    if remembers:
        assert "a copy of the model that has seen no image answers otherwise" in check["words"]
        assert set(check["images"]) == set(table.index[table["trust_v5_elsewhere_difference"] > 1e-3])


def test_in_a_run_of_third_parties_code(tmp_path: Path, write_suite: Callable[..., Path]) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(THEIRS)
    include(file)
    suite = write_suite(tmp_path / "two.toml", ["forgets", "remembers"], EVALUATIONS, epochs=2)
    options = Options(str(suite), {"train_limit": 300}, out=tmp_path / "out", included=(str(file),))
    done = pipeline.run(options)
    assert done.code == 0, done.failures
    with Store.open(tmp_path / "out") as store:
        board = build(store)
    rows = {row.defense: row for row in board.rows}
    checks = {name: {r.name: r.finding for r in row.assessment.reports[0].results} for name, row in rows.items()}
    assert checks["forgets"]["V5"].verdict == "pass"
    assert checks["remembers"]["V5"].verdict == "fail"
    assert "has seen no image" in checks["remembers"]["V5"].words
    assert checks["remembers"]["V5"].images
