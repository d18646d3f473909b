"""A tiny fast sine on top of the image, which drowns the gradient."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks

AMPLITUDE, FREQUENCY = 0.005, 4000.0


class Shattered(nn.Module):
    """A network on x + a·sin(ωx): the values hardly move, the derivative is 1 + aω·cos(ωx), from −19 to 21."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + AMPLITUDE * (FREQUENCY * x).sin())


@fake(
    source="Athalye et al. 2018, section 4.1: shattered gradients",
    seen_by=("G3",),
    adaptive=Adaptive(lambda m: m.network),
)
def sine_shattering(networks: Networks) -> nn.Module:
    """Add 0.005·sin(4000 x) to each pixel: the gradient's sign says nothing about the next hundredth."""
    return Shattered(networks.trained())
