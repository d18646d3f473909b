"""Honest: randomised smoothing, declared as randomised."""

from torch import nn

from bench.museum.exhibit import honest
from bench.museum.networks import Networks


@honest(source="Cohen, Rosenfeld, Kolter 2019", quick=True)
def smoothed(networks: Networks) -> nn.Module:
    """Vote over copies of the image with Gaussian noise: random, and nothing hides behind it."""
    return networks.trained("smoothing", sigma=0.12)
