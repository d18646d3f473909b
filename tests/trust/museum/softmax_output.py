"""Probabilities instead of logits."""

from torch import Tensor, nn

from bench.museum.exhibit import fake
from bench.museum.networks import Networks


class Probabilities(nn.Module):
    """Softmax of a network's logits, sharpened."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return (3 * self.network(x)).softmax(1)


@fake(source="Athalye et al. 2018, section 4: vanishing gradients", seen_by=("G5",))
def softmax_output(networks: Networks) -> nn.Module:
    """Return softmax(3z) in place of logits: a loss applies softmax twice, and saturated entries have no gradient."""
    return Probabilities(networks.trained())
