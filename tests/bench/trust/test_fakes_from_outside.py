"""Three fakes of kinds that the museum has not, none of which came from the checks: each is seen (docs/museum.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bench
from bench.museum.networks import Networks

EPS, IMAGES = 0.5, 48


class Routed(nn.Module):
    """Eight networks, of which stripes along six secret directions choose one: steps end in another's part."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        draw = torch.Generator().manual_seed(3)
        self.register_buffer("secret", torch.linalg.qr(torch.randn(64, 6, generator=draw))[0])
        self.register_buffer("factors", torch.tensor([1, 3, 5, 7, 11, 13]))

    def forward(self, x: Tensor) -> Tensor:
        stripes = (x.flatten(1) @ self.secret / 0.25).floor().long()
        chosen = (stripes * self.factors).sum(1) % len(self.networks)
        return torch.stack([network(x) for network in self.networks], 1)[torch.arange(len(x)), chosen]


class DeadZone(nn.Module):
    """Pixels below 0.12 are black and above 0.88 white: no gradient where most pixels of the data are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(((x - 0.12) / 0.76).clamp(0, 1))


class LabelAndSlope(nn.Module):
    """A network's label and a small linear function, whose gradient is exact and leads nowhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("slope", torch.randn(10, 64, generator=torch.Generator().manual_seed(5)) / 64)

    def forward(self, x: Tensor) -> Tensor:
        label = self.network(x).argmax(1)
        return 5.0 * F.one_hot(label, 10) + x.flatten(1) @ self.slope.T


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


FAKES: dict[str, Callable[[Networks], nn.Module]] = {
    "routed": lambda networks: Routed([networks.fit(small, seed=seed) for seed in range(8)]),
    "dead zone": lambda networks: DeadZone(networks.trained("adversarial_training", eps=EPS)),
    "label and slope": lambda networks: LabelAndSlope(networks.trained("adversarial_training", eps=EPS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAKES)
def test_a_fake_from_outside_is_an_upper_bound_only(name: str) -> None:
    networks = Networks()
    x, y = networks.images("digits", IMAGES)
    model = FAKES[name](networks).eval()
    table = bench.evaluate(model, data=(x, y), evaluations=["accuracy", "autoattack_l2", "trust"], eps=[EPS])
    robust, trust = table[f"autoattack_l2_{EPS}_robust"].mean(), table.attrs["trust"]
    failed = [check for check, found in trust["checks"].items() if found["verdict"] == "fail"]
    print(f"{name}: AutoAttack leaves {robust:.0%}, grade {trust['grade']}, failed {', '.join(failed)}")
    assert trust["grade"] == "C"
    assert failed
