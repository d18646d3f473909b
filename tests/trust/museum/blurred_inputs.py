"""Idea: blur the input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


class Blurred(nn.Module):
    """A network on images blurred by the 3×3 kernel (1, 2, 1)ᵀ(1, 2, 1) / 16."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = build(BACKBONE, CLASSES, SHAPE)
        side = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(side, side)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.kernel))


@weak(source="self-study course: input blur")
def blurred_inputs(networks: Networks) -> nn.Module:
    """Train and classify on blurred images: one more convolution, differentiable, hides nothing."""
    return networks.fit(Blurred)
