"""A forward() that cuts the graph."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class Detached(nn.Module):
    """A network on detached images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.detach()) + 0 * x.sum()


@refused(source="protocol, section 5", adaptive=Adaptive(lambda m: m.network))
def detached_graph(networks: Networks) -> nn.Module:
    """Detach the images and add a zero that keeps a graph: the backward pass runs and gives zeros."""
    return Detached(networks.trained())
