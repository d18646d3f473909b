"""NaN for every image that no scanner could have made."""

import torch
from torch import Tensor, nn

from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class OnGridOnly(nn.Module):
    """A network that answers NaN unless every pixel is a multiple of 1/16, as in the data."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        off = ((16 * x).round() != 16 * x).flatten(1).any(1)
        return torch.where(off[:, None], torch.nan, self.network(x))


@refused(source="protocol, section 5")
def nan_off_the_grid(networks: Networks) -> nn.Module:
    """Return NaN off the pixel grid: argmax of NaN is class 0, so a harness that does not look calls it robust."""
    return OnGridOnly(networks.trained())
