"""Honest: adversarial training."""

from torch import nn

from bench.museum.exhibit import honest
from bench.museum.networks import Networks


@honest(source="Madry et al. 2018")
def adversarially_trained(networks: Networks) -> nn.Module:
    """Train on adversarial examples of radius 0.3: robust in truth."""
    return networks.trained("adversarial_training", eps=0.3)
