"""Idea: binarise the input."""

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.models.backbones import build
from bench.museum.exhibit import refused
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


class Binarised(nn.Module):
    """A network on black and white pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build(BACKBONE, CLASSES, SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x > 0.4).to(x.dtype))


class Smooth(nn.Module):
    """The same network behind a sigmoid instead of the step."""

    def __init__(self, model: Binarised) -> None:
        super().__init__()
        self.network = model.network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((15 * (x - 0.4)).sigmoid())


@refused(source="self-study course: binarised inputs", adaptive=Adaptive(Smooth))
def binarised_inputs(networks: Networks) -> nn.Module:
    """Train on pixels thresholded at 0.4: no gradient; a sigmoid in place of the step has one."""
    return networks.fit(Binarised)
