"""Weak: what is random is declared, hides nothing, and its low robust accuracy comes out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.core.draws import RandomisedModel
from bench.models.backbones import Layers, build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


class Noisy(nn.Module):
    """A network on images with fresh Gaussian noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


class Moved(nn.Module):
    """A network on images that are moved by a random fraction of a pixel and change their contrast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        share, contrast = torch.rand(2, len(x), 1, 1, 1)
        moved = (1 - share / 2) * x + share / 2 * x.roll(1, 3)
        return self.network(moved * (0.8 + 0.2 * contrast))


class Dropped(nn.Module):
    """ReLU and dropout that does not end with training."""

    def forward(self, z: Tensor) -> Tensor:
        return F.dropout(z.relu(), 0.1, training=True)


@weak(source="Athalye et al. 2018, section 4.2")
def declared_noise(networks: Networks) -> nn.Module:
    """Add noise of standard deviation 0.1 at each call, and say so."""
    return RandomisedModel(Noisy(networks.trained()))


@weak(source="self-study course: random transforms; Xie et al. 2018")
def declared_transforms(networks: Networks) -> nn.Module:
    """Shift and dim each image at random at each call, and say so."""
    return RandomisedModel(Moved(networks.trained()))


@weak(source="self-study course: random neurons; Dhillon et al. 2018")
def declared_neurons(networks: Networks) -> nn.Module:
    """Drop a tenth of the neurons at random at each call, and say so."""
    return RandomisedModel(networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE, Layers(activation=Dropped)), epochs=4))
