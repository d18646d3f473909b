"""Weak: what is random is declared, hides nothing, and its low robust accuracy comes out."""

from torch import nn

from bench.attacks.core.draws import RandomisedModel
from bench.models.backbones import Layers, build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks
from tests.trust.museum import random_neurons, random_noise, random_transforms


@weak(source="Athalye et al. 2018, section 4.2")
def declared_noise(networks: Networks) -> nn.Module:
    """Add noise of standard deviation 0.1 at each call, and say so."""
    return RandomisedModel(random_noise.Noisy(networks.trained()))


@weak(source="self-study course: random transforms; Xie et al. 2018")
def declared_transforms(networks: Networks) -> nn.Module:
    """Shift and dim each image at random at each call, and say so."""
    return RandomisedModel(random_transforms.RandomTransforms(networks.trained()))


@weak(source="self-study course: random neurons; Dhillon et al. 2018")
def declared_neurons(networks: Networks) -> nn.Module:
    """Drop a tenth of the neurons at random at each call, and say so."""
    layers = Layers(activation=random_neurons.RandomNeurons)
    return RandomisedModel(networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE, layers), epochs=4))
