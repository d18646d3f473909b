"""The training benchmark end to end at toy size, and the published step that it compares with."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch.nn import functional as F

from bench.core import registry
from benchmarks import published, training


def test_it_prints_the_table_and_writes_the_ratios(tmp_path, monkeypatch, capsys):
    path = tmp_path / "ratios.json"
    monkeypatch.setattr(sys, "argv", ["training", "--width", "8", "--batch", "4", "--parity", "4", "--blocks", "5",
                                      "--steps", "1", "--deterministic", "--json", str(path)])  # fmt: skip
    training.main()
    found = json.loads(path.read_text())
    assert set(found) == {"lcnn", "gradreg", "lcnn_gradreg", "cure", "adversarial_training"}
    for name, entry in found.items():
        assert set(entry) == {"ratio", "low", "high", "parity"}
        assert 0 < entry["low"] <= entry["ratio"] <= entry["high"]
        assert entry["parity"] < 1e-4, name
    printed = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|") for line in printed.splitlines() if line.startswith("| ")}
    waits = {name: tuple(int(n) for n in rows[name][8].split("/")) for name in training.KNOWN}
    assert all(ours == 0 for ours, _ in waits.values())
    assert waits["lcnn"][1] == waits["lcnn_gradreg"][1] == 60, "two norms and a comparison for each of 20 layers"
    assert "deterministic: nothing to pay on a CPU" in printed


def test_the_published_penalty_falls_with_the_square_of_the_batch():
    """Its weight on the mean squared gradient of a sample is 1e-3·1e5/B²."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 3).double()  # no batch norm: samples do not meet
    x, y = torch.rand(8, 6).double(), torch.arange(8) % 3
    for n in (4, 8):
        image = x[:n].clone().requires_grad_()
        total = F.cross_entropy(model(image), y[:n], reduction="sum")
        (gradient,) = torch.autograd.grad(total, image)
        expected = total / n + 1e-3 * 1e5 / n**2 * gradient.square().sum(1).mean()
        found = published.gradient_loss(model, x[:n], y[:n]).detach()
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("low_curvature", [True, False])
def test_the_published_network_is_ours_block_by_block(low_curvature):
    """The doubled block is the ordinary one, with the published size of strided layers' norms."""
    name, choice = ("lcnn", {"authors_sigma_size": True}) if low_curvature else ("standard", {})
    theirs = published.network(low_curvature, 4, 10, 16)
    ours = registry.defenses.get(name).function(10, (3, 16, 16), "resnet18-w4", **choice).train()
    vectors = [[m.u for m in net.modules() if hasattr(m, "u")] for net in (ours, theirs)]
    last = [net.parametrizations.weight[0] for net in (ours.fc, theirs[-1])]
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.copy_(p)
        for p, q in zip(vectors[0] + [last[0]._u, last[0]._v], vectors[1] + [last[1]._u, last[1]._v], strict=True):
            q.copy_(p)
    x = torch.rand(6, 3, 16, 16)
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-3, atol=1e-4)
