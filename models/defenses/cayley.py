"""Orthogonal convolutions by the Cayley transform: a network that is 1-Lipschitz by construction."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.decorators import defense
from bench.core.ranges import Gt
from bench.core.recipe import Recipe
from bench.models.backbones import Layers, build
from bench.models.layers import CayleyConv2d, CenteredSoftplus, MaxMin, SpectralNormLinear

BIBTEX: Final = """@inproceedings{trockman2021orthogonalizing,
  title     = {Orthogonalizing Convolutional Layers with the Cayley Transform},
  author    = {Trockman, Asher and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}"""


def scaled_cross_entropy(model: nn.Module, x: Tensor, y: Tensor, *, scale: float) -> dict[str, Tensor]:
    """Return mean cross-entropy of scale · logits, over scale, at x (B, C, H, W), y (B,).

    The logits of a 1-Lipschitz network are too close together for cross-entropy; a certificate does not change when
    logits and Lipschitz constant are scaled alike. The division keeps gradients the size of unscaled ones.
    """
    return {"cross_entropy": F.cross_entropy(scale * model(x), y) / scale}


def orthogonal_conv(
    in_channels: int, out_channels: int, kernel_size: int, *, in_size: tuple[int, int], stride: int, **_: int | bool
) -> CayleyConv2d:
    """Return the orthogonal convolution, with bias, in place of a convolution with zero padding and norm.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: odd side of the kernel.
        in_size: (H, W) of the input.
        stride: the same vertically and horizontally.
    """
    return CayleyConv2d(in_channels, out_channels, kernel_size, in_size=in_size, stride=stride)


def no_norm(channels: int) -> nn.Identity:
    """Return the identity in place of a norm of `channels` channels."""
    return nn.Identity(channels)


@defense(
    source="Trockman, Kolter 2021, sections 3 and 4, equation (8)",
    recipe=Recipe(loss=scaled_cross_entropy),
    bibtex=BIBTEX,
    title="Cayley orthogonal convolutions",
    link="https://arxiv.org/abs/2104.07167",
    venue="ICLR",
    year=2021,
)
def cayley(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    activation: Literal["maxmin", "softplus"] = "maxmin",
    beta: Annotated[float, Gt(0)] = 10.0,
    scale: Annotated[float, Gt(0)] = 30.0,
) -> nn.Module:
    """Train a network of orthogonal convolutions without norm; its Lipschitz constant is at most 1.

    Every convolution has circular padding and the kernel's Fourier transform replaced, frequency by frequency, by its
    Cayley transform; strides are invertible downsampling. Differs from the paper: the skeleton is that of `standard`
    (its scaled residual blocks are 1-Lipschitz; its average pool shrinks distances further), the last layer is
    spectrally normalised instead of orthogonal, cross-entropy of scaled logits stands for the margin loss, pixels
    are not normalised, and the kernel has no learnt norm. "softplus" is a smooth activation with slopes in (0, 1),
    which the paper does not have: the curvature bounds need one. Slopes near 1/2 shrink distances and gradients at each
    layer, where the paper's activation keeps them, so that the network underfits: accuracy on scikit-learn's digits
    (`convnet`, 30 epochs, seed 0) is 66 % (68 % with scale 100) in the place of 96 %. Expected (paper, CIFAR-10,
    KWLarge): accuracy about 75 %, certified about 60 % at l2 36/255.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        activation: "maxmin" sorts pairs of channels (the paper's), "softplus" is centered, with a fixed β.
        beta: β of "softplus".
        scale: factor of the logits in the loss.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    smooth = partial(CenteredSoftplus, beta, learn_beta=False)
    layers = Layers(
        conv=orthogonal_conv,
        norm=no_norm,
        activation=MaxMin if activation == "maxmin" else smooth,
        linear=SpectralNormLinear,
    )
    return build(backbone, num_classes, in_shape, layers)
