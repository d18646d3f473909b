"""ResNets for small images (stem 3×3, no max-pool), in the authors' scaling or the textbook's."""

from __future__ import annotations

import math

from torch import Tensor, nn

from bench.models.backbones.blocks import Layers, conv_out_size
from bench.models.layers import precomputed


class Block(nn.Module):
    """Basic residual block, two 3×3 convolutions.

    Authors' scaling (Srinivas et al. 2022, in their code; the paper does not mention it):

        act(½·(conv2(act(conv1(x/√2))) + shortcut(x/√2)))

    which equals their channel-doubling form, repeat (x, x)/√2, two branches, ½·(sum of the halves), and keeps
    every part 1-Lipschitz. Textbook (He et al. 2016): act(conv2(act(conv1(x))) + shortcut(x)). The shortcut is
    the identity, or a 1×1 convolution and norm where the shape changes. "conv" includes its norm.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        stride: of the first convolution.
        size: (H, W) of the input.
        layers: see `bench.models.backbones.build`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, size: tuple[int, int], layers: Layers) -> None:
        super().__init__()
        self.scale = (1 / math.sqrt(2), 0.5) if layers.scaled_residual else None
        self.conv1 = layers.conv_norm(in_channels, out_channels, 3, stride, size)
        self.act1 = layers.activation()
        self.conv2 = layers.conv_norm(out_channels, out_channels, 3, 1, conv_out_size(size, stride))
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else layers.conv_norm(in_channels, out_channels, 1, stride, size)
        self.act2 = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x (B, Cin, H, W), (B, Cout, H', W')."""
        if self.scale is None:
            return self.act2(self.conv2(self.act1(self.conv1(x))) + self.shortcut(x))
        x = x * self.scale[0]
        return self.act2((self.conv2(self.act1(self.conv1(x))) + self.shortcut(x)) * self.scale[1])


class ResNet(nn.Module):
    """ResNet of four stages with channels w, 2w, 4w, 8w and strides 1, 2, 2, 2, average pool, one last layer.

    Args:
        depths: blocks per stage; (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) ResNet-34, (1, 1, 1, 1) ResNet-10.
        width: w; 64 in the paper.
        num_classes: see `bench.models.backbones.build`, like the others.
        in_shape: (C, H, W).
        layers: the defense's choice.
        stem_stride: stride of the first convolution; 2 leaves a quarter of the operations per channel.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int,
        num_classes: int,
        in_shape: tuple[int, int, int],
        layers: Layers,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        self.stem = layers.conv_norm(in_shape[0], width, 3, stem_stride, in_shape[1:])
        size = conv_out_size(in_shape[1:], stem_stride)
        self.act = layers.activation()
        channels, blocks = width, []
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(channels, width << stage, stride, size, layers))
                channels, size = width << stage, conv_out_size(size, stride)
        self.blocks = nn.Sequential(*blocks)
        self.fc = layers.linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        with precomputed(self):
            return self.fc(self.blocks(self.act(self.stem(x))).mean((2, 3)))
