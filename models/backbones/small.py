"""Small twice differentiable networks for the small suites: a ConvNet for digits, an MLP for points."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.backbones.blocks import Layers, conv_out_size
from bench.models.layers import precomputed


class ConvNet(nn.Module):
    """Three 3×3 convolutions with w, 2w, 2w channels and strides 1, 2, 1, average pool, one last layer.

    Strides instead of max-pools keep it twice differentiable wherever its activation is.

    Args:
        width: w; 16 by default.
        num_classes: see `bench.models.backbones.build`, like the others.
        in_shape: (C, H, W).
        layers: the defense's choice.
    """

    def __init__(self, width: int, num_classes: int, in_shape: tuple[int, int, int], layers: Layers) -> None:
        super().__init__()
        channels, size, parts = in_shape[0], in_shape[1:], []
        for out, stride in ((width, 1), (2 * width, 2), (2 * width, 1)):
            parts += [layers.conv_norm(channels, out, 3, stride, size), layers.activation()]
            channels, size = out, conv_out_size(size, stride)
        self.features = nn.Sequential(*parts)
        self.fc = layers.linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        with precomputed(self):
            return self.fc(self.features(x).mean((2, 3)))


class MLP(nn.Module):
    """Three hidden layers of w units, written as 1×1 convolutions so that every defense's layers fit.

    Args:
        width: w; 64 by default.
        num_classes: see `bench.models.backbones.build`, like the others.
        in_shape: (C, H, W) of any size; flattened. Points of two-moons are (2, 1, 1).
        layers: the defense's choice.
    """

    def __init__(self, width: int, num_classes: int, in_shape: tuple[int, int, int], layers: Layers) -> None:
        super().__init__()
        units, parts = in_shape[0] * in_shape[1] * in_shape[2], []
        for _ in range(3):
            parts += [layers.conv_norm(units, width, 1, 1, (1, 1)), layers.activation()]
            units = width
        self.features = nn.Sequential(*parts)
        self.fc = layers.linear(units, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        with precomputed(self):
            return self.fc(self.features(x.reshape(len(x), -1, 1, 1)).flatten(1))
