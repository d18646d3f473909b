"""A network whose last features take few values, the same all over a small ball."""

import torch
from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import CLASSES, Networks

STEP = 1.0  # of the rounding, in logits
FEATURES = 32


class Coarse(nn.Module):
    """A network's logits, coarsely rounded with the identity's gradient, and a last layer that undoes a rotation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.spread, self.last = nn.Linear(CLASSES, FEATURES, bias=False), nn.Linear(FEATURES, CLASSES, bias=False)
        torch.manual_seed(0)
        nn.init.orthogonal_(self.spread.weight)
        self.last.weight.data = self.spread.weight.data.T.clone()

    def forward(self, x: Tensor) -> Tensor:
        z = self.network(x)
        coarse = (z / STEP).round() * STEP
        return self.last(self.spread(z + (coarse - z).detach()))


@fake(
    source="features that do not tell points of a ball apart: a last layer on them plants nothing (check T1)",
    seen_by=("T1",),
    adaptive=Adaptive(lambda m: m.network),
)
def saturated_features(networks: Networks) -> nn.Module:
    """Round the features before the last layer coarsely, with the gradient of the identity: nothing can be planted."""
    return Coarse(networks.trained())
