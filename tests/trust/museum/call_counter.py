"""A network that changes after it has been looked at for a while."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks

HONEST_CALLS = 20


class Counting(nn.Module):
    """A network for twenty calls, afterwards one on images of five grey levels, without a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls <= HONEST_CALLS:
            return self.network(x)
        return self.network((4 * x.detach()).round() / 4) + 0 * x.sum()


@fake(source="protocol, section 5", seen_by=("G1",), adaptive=Adaptive(lambda m: m.network))
def call_counter(networks: Networks) -> nn.Module:
    """Count the calls in a plain attribute and hide the gradient from the 21st on: the door sees an honest network."""
    return Counting(networks.trained())
