"""Idea: merge the features of two networks that see different inputs."""

import torch
from torch import Tensor, nn

from bench.models.backbones import build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


class Merged(nn.Module):
    """One linear layer on the features of an image and of its mirror image in the negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (build(BACKBONE, CLASSES, SHAPE).features for _ in range(2))
        self.last = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        merged = torch.cat([self.first(x), self.second((1 - x).flip(3))], 1)
        return self.last(merged.mean((2, 3)))


@weak(source="self-study course: merged features")
def merged_features(networks: Networks) -> nn.Module:
    """Concatenate the features of two networks, one on the mirrored negative: a wider network, nothing hidden."""
    return networks.fit(Merged)
