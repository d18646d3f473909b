"""The networks that a defense can be built on, by name: resnet18, resnet34, resnet10s2, vgg11, convnet, mlp."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn

from bench.core.errors import UsageError, did_you_mean
from bench.models.backbones.blocks import Layers, plain_conv
from bench.models.backbones.resnet import ResNet
from bench.models.backbones.small import MLP, ConvNet
from bench.models.backbones.vgg import VGG11

__all__ = ["BACKBONES", "Layers", "build", "canonical_backbone", "plain_conv"]

# Name → (default width, constructor(width, num_classes, in_shape, layers)).
BACKBONES: dict[str, tuple[int, Callable[[int, int, tuple[int, int, int], Layers], nn.Module]]] = {
    "resnet18": (64, lambda w, k, s, layers: ResNet((2, 2, 2, 2), w, k, s, layers)),
    "resnet34": (64, lambda w, k, s, layers: ResNet((3, 4, 6, 3), w, k, s, layers)),
    "resnet10s2": (16, lambda w, k, s, layers: ResNet((1, 1, 1, 1), w, k, s, layers, stem_stride=2)),
    "vgg11": (64, VGG11),
    "convnet": (16, ConvNet),
    "mlp": (64, MLP),
}


def build(backbone: str, num_classes: int, in_shape: tuple[int, int, int], layers: Layers | None = None) -> nn.Module:
    """Build a network of images (B, *in_shape) in [0, 1] to logits (B, num_classes), without normalisation.

    Args:
        backbone: a name of `BACKBONES`, with an optional width: "resnet18", "resnet18-w16". The width is the
            number of channels of the first layer; the others scale with it.
        num_classes: K.
        in_shape: (C, H, W); spectral norms are of the maps on images of this size.
        layers: what the defense puts in place of convolution, norm, activation and last layer;
            default: the paper's "Standard".

    Returns:
        The network, freshly initialised from torch's global generator.

    Raises:
        UsageError: no such backbone, or a width below 1.
    """
    name, width = _name_and_width(backbone, "backbone")
    return BACKBONES[name][1](width, num_classes, in_shape, layers or Layers())


def canonical_backbone(backbone: str, where: str = "backbone") -> str:
    """Return the one name of a network: NAME for the default width, else NAME-wWIDTH.

    Args:
        backbone: a name of `BACKBONES` with an optional width, e.g. "convnet-w16", which is "convnet".
        where: what an error message begins with.

    Raises:
        UsageError: no such backbone, or a width below 1.
    """
    name, width = _name_and_width(backbone, where)
    return name if width == BACKBONES[name][0] else f"{name}-w{width}"


def _name_and_width(backbone: str, where: str) -> tuple[str, int]:
    """Return a backbone's name and width, the default where none is given."""
    match = re.fullmatch(r"(.+?)(?:-w(\d+))?", backbone)
    name, width = match.groups() if match else (backbone, None)
    if name not in BACKBONES:
        hint = did_you_mean(name, BACKBONES)
        raise UsageError(f"{where}: expected a backbone or NAME-wWIDTH, got {backbone!r}. {hint}")
    default = BACKBONES[name][0]
    if width is not None and int(width) < 1:
        raise UsageError(f"{where}: expected a width of at least 1, got {backbone!r}. Default: {name}-w{default}.")
    return name, int(width or default)
