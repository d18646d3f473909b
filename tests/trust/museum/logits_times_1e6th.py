"""Logits divided by a million: attacks that floor small gradients stand still."""

from torch import Tensor, nn

from bench.museum.exhibit import fake
from bench.museum.networks import Networks


class Scaled(nn.Module):
    """A network with its logits times a factor: the same decisions."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.network(x)


@fake(source="protocol, section 1: libraries that floor the squared gradient at 1e-12", seen_by=("G5",))
def logits_times_1e6th(networks: Networks) -> nn.Module:
    """Multiply the logits by 1e-6: gradients of that size vanish in an attack that divides by ‖g‖ + 1e-6."""
    return Scaled(networks.trained(), 1e-6)
