"""What backbones are made of: the layers that a defense may choose, and the convolution block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.layers import BatchNorm2d, LipschitzBatchNorm2d, Softplus, SpectralNormLinear


def plain_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, in_size: tuple[int, int], **settings: int | bool
) -> nn.Conv2d:
    """Return an ordinary convolution; `in_size` is for layers that need to know their input's size."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, **settings)  # type: ignore[arg-type]


class ConvNorm(nn.Sequential):
    """Convolution, then norm; inside `folded_norms`, in eval mode, one convolution that does both.

    The same up to rounding, without batch norm's passes over the images.
    """

    folded = False

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Any] = list(self)
        conv, norm = layers
        if not self.folded or norm.training or not isinstance(norm, BatchNorm2d | LipschitzBatchNorm2d):
            return norm(conv(x))
        scale = (norm.running_var + norm.eps).rsqrt()
        if isinstance(norm, LipschitzBatchNorm2d):
            scale = scale * norm.factor()
        weight, shift = conv.weight * scale.view(-1, 1, 1, 1), -norm.running_mean * scale
        return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


@contextmanager
def folded_norms(model: nn.Module) -> Iterator[None]:
    """Let the `ConvNorm`s of a model that is in eval mode fold their norms inside the block."""
    parts = [m for m in model.modules() if isinstance(m, ConvNorm)]
    for part in parts:
        part.folded = True
    try:
        yield
    finally:
        for part in parts:
            del part.folded


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
    ) -> ConvNorm:
        """Return convolution (odd kernel, "same" padding, no bias) and norm; outputs have `conv_out_size`."""
        conv = self.conv(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False, in_size=size
        )
        return ConvNorm(conv, self.norm(out_channels))


def conv_out_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the size of an image after a "same"-padded convolution of that stride."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1
