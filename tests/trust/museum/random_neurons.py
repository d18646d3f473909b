"""Idea: drop random neurons, also at test time."""

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import Layers, build
from bench.museum.exhibit import refused
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


class RandomNeurons(nn.Module):
    """ReLU and dropout that does not end with training."""

    def forward(self, z: Tensor) -> Tensor:
        return F.dropout(z.relu(), 0.1, training=True)


@refused(source="self-study course: random neurons; Dhillon et al. 2018")
def random_neurons(networks: Networks) -> nn.Module:
    """Drop a tenth of the neurons at random at each call: two calls differ."""
    return networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE, Layers(activation=RandomNeurons)), epochs=4)
