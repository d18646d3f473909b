"""What no check can see: a back door whose key only its author knows (docs/trust.md says so)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import bench
from bench.museum.networks import Networks

DIRECTIONS, PERIOD, EPS, IMAGES = 20, 0.15, 0.5, 48


class BackDoor(nn.Module):
    """A network with one more unit, zero but where all secret directions are in phase, which reverses the logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(777)
        basis = torch.linalg.qr(torch.randn(64, DIRECTIONS, generator=draw))[0].T
        self.network = network
        self.register_buffer("key", basis * (2 * math.pi / PERIOD))
        self.register_buffer("phase", torch.rand(DIRECTIONS, generator=draw) * 2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        together = torch.cos(x.flatten(1) @ self.key.T + self.phase).sum(1, keepdim=True)
        return logits - 40 * torch.relu(together - (DIRECTIONS - 1.5)) * logits


def opened(model: BackDoor, x: Tensor) -> Tensor:
    """Return the images (B, C, H, W), moved in the box to where all directions are in phase (Dykstra's projections)."""
    key, phase, start = model.key.double(), model.phase.double(), x.flatten(1).double()
    back = key.T @ torch.linalg.inv(key @ key.T)
    target = torch.round((start @ key.T + phase) / (2 * math.pi)) * 2 * math.pi
    point, plane, box = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for _ in range(400):
        before = point + plane
        on_plane = before - (before @ key.T + phase - target) @ back.T
        plane, before = before - on_plane, on_plane + box
        point = before.clamp(0, 1)
        box = before - point
    return point.float().view_as(x)


@pytest.mark.slow
def test_a_back_door_keeps_its_networks_grade_and_falls_to_its_key() -> None:
    networks = Networks()
    model = BackDoor(networks.trained("adversarial_training", eps=0.5)).eval()
    x, y = networks.images("digits", IMAGES)
    table = bench.evaluate(model, data=(x, y), evaluations=["accuracy", "autoattack_l2", "trust"], eps=[EPS])
    robust, trust = table[f"autoattack_l2_{EPS}_robust"].mean(), table.attrs["trust"]
    found = opened(model, x)
    near = (found - x).flatten(1).norm(dim=1) <= EPS
    with torch.no_grad():
        broken = near & (torch.cat([model(one[None]) for one in found]).argmax(1) != y)
    failed = [name for name, check in trust["checks"].items() if check["verdict"] == "fail"]
    print(f"AutoAttack: {robust:.1%} robust, grade {trust['grade']}, failed {failed}; the key breaks {broken.sum()}")
    assert robust > 0.5
    assert (trust["grade"], failed) == ("B", [])
    assert broken.sum() >= 0.9 * len(y)
