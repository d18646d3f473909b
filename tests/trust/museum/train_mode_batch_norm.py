"""Batch norm with the statistics of the batch, in eval mode too."""

from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.records import Adaptive
from bench.museum.exhibit import refused
from bench.museum.networks import Networks


class BatchStatistics(nn.Module):
    """A network on images normalised by their batch's mean and deviation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(0.3 + 0.35 * F.batch_norm(x, None, None, training=True))


@refused(source="protocol, section 5", adaptive=Adaptive(lambda m: m.network))
def train_mode_batch_norm(networks: Networks) -> nn.Module:
    """Normalise by the batch at hand: an answer depends on the other images, and perturbing all shifts them."""
    return BatchStatistics(networks.trained())
