"""Honest: plain training."""

from torch import nn

from bench.museum.exhibit import honest
from bench.museum.networks import Networks


@honest(source="Srinivas et al. 2022, Table 1, Standard", quick=True)
def plain(networks: Networks) -> nn.Module:
    """Train with cross-entropy: not robust, and measured so."""
    return networks.trained("standard")
