"""Idea: transform the input at random."""

import torch
from torch import Tensor, nn

from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class RandomTransforms(nn.Module):
    """A network on images that are moved by a random fraction of a pixel and change their contrast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        share, contrast = torch.rand(2, len(x), 1, 1, 1)
        moved = (1 - share / 2) * x + share / 2 * x.roll(1, 3)
        return self.network(moved * (0.8 + 0.2 * contrast))


@refused(source="self-study course: random transforms; Xie et al. 2018")
def random_transforms(networks: Networks) -> nn.Module:
    """Shift and dim each image at random at each call: two calls differ."""
    return RandomTransforms(networks.trained())
