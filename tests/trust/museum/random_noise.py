"""Noise added to the input at each call."""

import torch
from torch import Tensor, nn

from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class Noisy(nn.Module):
    """A network on images with fresh Gaussian noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


@refused(source="Athalye et al. 2018, section 4.2: stochastic gradients")
def random_noise(networks: Networks) -> nn.Module:
    """Add noise of standard deviation 0.1 at each call: two calls differ."""
    return Noisy(networks.trained())
