"""A loop of gradient steps inside forward() that pulls the image back to what an autoencoder knows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks

STEPS, LENGTH = 4, 0.5


class Autoencoder(nn.Module):
    """64 → 24 → 64 units."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(1)).view_as(x)


def reconstruction(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the squared error of the reconstruction, per image."""
    return {"error": 10 * F.mse_loss(model(x), x)}


class Purified(nn.Module):
    """A network on images moved down the autoencoder's error; only the last step passes gradients."""

    def __init__(self, network: nn.Module, autoencoder: nn.Module) -> None:
        super().__init__()
        self.network, self.autoencoder = network, autoencoder

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.zeros_like(x)
        for _ in range(STEPS):
            with torch.enable_grad():
                leaf = (x + shift).detach().requires_grad_()
                error = (self.autoencoder(leaf) - leaf).square().sum()
                (gradient,) = torch.autograd.grad(error, leaf)
            shift = shift - LENGTH * gradient.detach()
        return self.network((x + shift).clamp(0, 1))


@fake(source="Croce et al. 2022, on adaptive test-time defenses", seen_by=("D1",))
def purification_loop(networks: Networks) -> nn.Module:
    """Take four gradient steps on an autoencoder's error inside forward(), detached from what the attack sees."""
    return Purified(networks.trained(), networks.fit(Autoencoder, reconstruction))
