"""Idea: discretise the input, with a steep staircase that still has a gradient."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.models.backbones import build
from bench.museum.exhibit import fake
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks

LEVELS, STEEPNESS, EDGE = 4, 100.0, 0.4


class Staircase(nn.Module):
    """A network on pixels of five grey levels; each riser is a sigmoid that is steep and narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build(BACKBONE, CLASSES, SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        level = (LEVELS * x).detach().floor()
        riser = (STEEPNESS * (LEVELS * x - level - EDGE)).sigmoid()
        return self.network((level + riser) / LEVELS)


@fake(
    source="self-study course: discretised inputs; Buckman et al. 2018",
    seen_by=("G3",),
    adaptive=Adaptive(lambda m: m.network),
)
def discretised_inputs(networks: Networks) -> nn.Module:
    """Train on pixels of five levels behind a steep smooth staircase: flat nearly everywhere, cliffs in between."""
    return networks.fit(Staircase)
