"""Idea: activations that jump."""

import copy

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.models.backbones import Layers, build
from bench.museum.exhibit import fake
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks

THRESHOLD = 0.5


class Jump(nn.Module):
    """z where z exceeds a threshold, else 0; the jump has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.jumps = True

    def forward(self, z: Tensor) -> Tensor:
        return z * (z > THRESHOLD) if self.jumps else z.relu()


def without_jumps(model: nn.Module) -> nn.Module:
    """Return a copy with ReLU in place of the jumps, which rises where they jump."""
    found = copy.deepcopy(model)
    for module in found.modules():
        if isinstance(module, Jump):
            module.jumps = False
    return found


@fake(
    source="self-study course: jump activations; Erichson et al. 2019",
    seen_by=("G3",),
    adaptive=Adaptive(without_jumps),
)
def jump_activations(networks: Networks) -> nn.Module:
    """Train with activations that jump from 0 to 0.5: the jumps have no gradient, the slopes beside them do."""
    return networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE, Layers(activation=Jump)))
