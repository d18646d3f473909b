"""Honest: a low-curvature network with gradient regularisation."""

from torch import nn

from bench.museum.exhibit import honest
from bench.museum.networks import Networks


@honest(source='Srinivas et al. 2022, section 5 ("LCNN + GradReg")')
def lcnn_gradreg(networks: Networks) -> nn.Module:
    """Train the low-curvature network with small gradients: small is not masked."""
    return networks.trained("lcnn_gradreg")
