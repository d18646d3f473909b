"""Input rounded to 8 bits inside forward()."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class Rounded(nn.Module):
    """A network behind x ↦ round(255 x) / 255, whose derivative is zero."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((255 * x).round() / 255)


@refused(source="Athalye et al. 2018, section 4.1: shattered gradients", adaptive=Adaptive(lambda m: m.network))
def eight_bit_rounding(networks: Networks) -> nn.Module:
    """Round pixels to 8 bits: no gradient passes; the network behind it has one (straight-through)."""
    return Rounded(networks.trained())
