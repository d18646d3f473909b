"""Logits times a thousand: cross-entropy's gradient underflows to zero where an image is classified right."""

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


@fake(source="Carlini and Wagner 2017, section V, on defensive distillation", seen_by=("G2",))
def logits_times_1000(networks: Networks) -> nn.Module:
    """Multiply the logits by 1,000: p_y rounds to 1 and cross-entropy has no gradient; margin losses do not care."""
    return Scaled(networks.trained(), 1e3)
