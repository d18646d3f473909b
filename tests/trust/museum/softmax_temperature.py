"""Idea: train at a high softmax temperature, classify without it (defensive distillation's second half)."""

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import build
from bench.museum.exhibit import fake
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks

TEMPERATURE = 100.0


class Hot(nn.Module):
    """A network whose logits are those before the division by the temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build(BACKBONE, CLASSES, SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        return TEMPERATURE * self.network(x)


def at_temperature(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropy of logits divided by the temperature."""
    return {"cross_entropy": F.cross_entropy(model(x) / TEMPERATURE, y)}


@fake(source="self-study course: temperature; Papernot et al. 2016", seen_by=("G2",))
def softmax_temperature(networks: Networks) -> nn.Module:
    """Train at temperature 100 and leave it out afterwards: cross-entropy saturates, the margin does not."""
    return networks.fit(Hot, at_temperature)
