"""Honest: a low-curvature network."""

from torch import nn

from bench.museum.exhibit import honest
from bench.museum.networks import Networks


@honest(source="Srinivas et al. 2022")
def lcnn(networks: Networks) -> nn.Module:
    """Train the paper's low-curvature network: smooth gradients, which must not pass for hidden ones."""
    return networks.trained("lcnn")
