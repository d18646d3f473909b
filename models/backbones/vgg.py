"""VGG-11 with batch norm for small images."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.backbones.blocks import Layers
from bench.models.layers import precomputed

# Channels as multiples of the width, 0 for a 2×2 max-pool: torchvision's configuration A.
CONFIGURATION = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)


class VGG11(nn.Module):
    """torchvision's vgg11_bn convolutions, average pool and one last layer instead of its three.

    One activation (one β) after each of the eight convolutions. Differs from torchvision: convolutions have no
    bias, which the norm behind them would remove; a max-pool is left out where the image is down to one pixel.
    The authors' net of the same name is another one (ten convolutions, one β shared by all). Max-pools are
    1-Lipschitz but not smooth: the curvature theory of smooth networks does not apply.

    Args:
        width: channels of the first layer; 64 in torchvision.
        num_classes: see `bench.models.backbones.build`, like the others.
        in_shape: (C, H, W).
        layers: the defense's choice.
    """

    def __init__(self, width: int, num_classes: int, in_shape: tuple[int, int, int], layers: Layers) -> None:
        super().__init__()
        channels, size, parts = in_shape[0], in_shape[1:], []
        for multiple in CONFIGURATION:
            if multiple:
                parts += [layers.conv_norm(channels, multiple * width, 3, 1, size), layers.activation()]
                channels = multiple * width
            elif min(size) > 1:
                parts.append(nn.MaxPool2d(2))
                size = (size[0] // 2, size[1] // 2)
        self.features = nn.Sequential(*parts)
        self.fc = layers.linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        with precomputed(self):
            return self.fc(self.features(x).mean((2, 3)))
