"""What backbones are made of: the layers that a defense may choose, and the convolution block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bench.models.layers import BatchNorm2d, Softplus, SpectralNormLinear


def plain_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, in_size: tuple[int, int], **settings: int | bool
) -> nn.Conv2d:
    """Return an ordinary convolution; `in_size` is for layers that need to know their input's size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, **settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Layers:
    """A defense's choice of layers. The default is the paper's "Standard" (Srinivas et al. 2022 and its code).

    Attributes:
        conv: like nn.Conv2d, with the keyword `in_size` (H, W).
        norm: channels → normalisation layer.
        activation: called once for every activation of the network.
        linear: (in, out) → the last layer.
        scaled_residual: True for the authors' residual block, False for the textbook's.
    """

    conv: Callable[..., nn.Module] = plain_conv
    norm: Callable[[int], nn.Module] = BatchNorm2d
    activation: Callable[[], nn.Module] = Softplus
    linear: Callable[[int, int], nn.Module] = SpectralNormLinear
    scaled_residual: bool = True

    def conv_norm(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, size: tuple[int, int]
    ) -> nn.Sequential:
        """Return convolution (odd kernel, "same" padding, no bias) and norm; output size is `after(size, stride)`."""
        conv = self.conv(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False, in_size=size
        )
        return nn.Sequential(conv, self.norm(out_channels))


def after(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the size of an image after a "same"-padded convolution of that stride."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1
