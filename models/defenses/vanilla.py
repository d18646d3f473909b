"""A textbook network, undefended: what the paper's "Standard" is not."""

from __future__ import annotations

from torch import nn

from bench.core.decorators import defense
from bench.models.backbones import Layers, build

BIBTEX = """@inproceedings{he2016deep,
  title     = {Deep Residual Learning for Image Recognition},
  author    = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2016}
}"""


@defense(
    source="He et al. 2016, with the small-image stem of its section 4.2",
    bibtex=BIBTEX,
    title="Textbook ReLU network",
    link="https://arxiv.org/abs/1512.03385",
    venue="CVPR",
    year=2016,
)
def vanilla(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> nn.Module:
    """Train with ReLU, batch norm with affine part, ordinary last layer and residual blocks; cross-entropy alone.

    Not a row of the paper. It shows what the paper's skeleton by itself changes. ReLU has no curvature where it has
    one at all, so curvature figures of this row say little.

    Returns:
        The network, images (B, *in_shape) in [0, 1] to logits (B, num_classes).
    """
    layers = Layers(norm=nn.BatchNorm2d, activation=nn.ReLU, linear=nn.Linear, scaled_residual=False)
    return build(backbone, num_classes, in_shape, layers)
