"""Idea: activations that jump."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.models.backbones import Layers, build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks

THRESHOLD = 0.5


class Jump(nn.Module):
    """z where z exceeds a threshold, else 0; the jump has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.jumps = True

    def forward(self, z: Tensor) -> Tensor:
        return z * (z > THRESHOLD) if self.jumps else z.relu()


@weak(source="self-study course: jump activations; Erichson et al. 2019")
def jump_activations(networks: Networks) -> nn.Module:
    """Train with activations that jump from 0 to 0.5: the jumps have no gradient, the slopes beside them do."""
    return networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE, Layers(activation=Jump)))
