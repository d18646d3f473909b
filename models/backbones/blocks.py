"""Building blocks of the backbones: the layers that a defense chooses, and convolution with norm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.layers import BatchNorm2d, LipschitzBatchNorm2d, Softplus, SpectralNormLinear
from bench.models.layers.batch_norm import batch_norm_affine


def plain_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, in_size: tuple[int, int], **settings: int | bool
) -> nn.Conv2d:
    """Return nn.Conv2d.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: side of the kernel.
        in_size: (H, W) of the input; unused here, where spectrally normalised convolutions need it.
        settings: further arguments of nn.Conv2d.
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size, **settings)  # type: ignore[arg-type]


class ConvNorm(nn.Sequential):
    """Convolution, then norm; inside `folded_norms`, in eval mode, one convolution that does both.

    The logits are the same up to rounding, without batch norm's passes over the images.

    Attributes:
        folded: whether the norm is folded into the convolution now.
    """

    folded = False

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers to x (B, Cin, H, W)."""
        layers: list[Any] = list(self)
        conv, norm = layers
        if not self.folded or norm.training or not isinstance(norm, BatchNorm2d | LipschitzBatchNorm2d):
            return norm(conv(x))
        factor = norm.factor() if isinstance(norm, LipschitzBatchNorm2d) else None
        scale, shift = batch_norm_affine(norm.running_mean, norm.running_var, norm.eps, factor)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


@contextmanager
def folded_norms(model: nn.Module) -> Iterator[None]:
    """Fold the norms of every `ConvNorm` of a model in eval mode into its convolution inside the block.

    Args:
        model: any network; modules in training mode are not folded.
    """
    blocks = [m for m in model.modules() if isinstance(m, ConvNorm)]
    for block in blocks:
        block.folded = True
    try:
        yield
    finally:
        for block in blocks:
            del block.folded


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
        """Return convolution (odd kernel, "same" padding, no bias) and norm.

        Args:
            in_channels: Cin.
            out_channels: Cout.
            kernel: odd side of the kernel.
            stride: the same vertically and horizontally; the output's size is `conv_out_size(size, stride)`.
            size: (H, W) of the input.
        """
        conv = self.conv(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False, in_size=size
        )
        return ConvNorm(conv, self.norm(out_channels))


def conv_out_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (H', W') behind a convolution with an odd kernel and "same" padding.

    Args:
        size: (H, W) of the input.
        stride: the same vertically and horizontally.
    """
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1
