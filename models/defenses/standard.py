"""The paper's undefended baseline, in the same skeleton as all its rows."""

from __future__ import annotations

from torch import nn

from bench.core.decorators import defense
from bench.models.backbones import Layers, build

BIBTEX = """@inproceedings{srinivas2022lowcurvature,
  title     = {Efficient Training of Low-Curvature Neural Networks},
  author    = {Srinivas, Suraj and Matoba, Kyle and Lakkaraju, Himabindu and Fleuret, Fran{\\c{c}}ois},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}"""


@defense(
    source='Srinivas et al. 2022, Table 1, "Standard"',
    bibtex=BIBTEX,
    title="Standard training",
    link="https://arxiv.org/abs/2206.07144",
    venue="NeurIPS",
    year=2022,
)
def standard(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> nn.Module:
    """Train with cross-entropy alone: softplus with β = 1e3, batch norm without affine part.

    This is the authors' "Standard", not a textbook network (that is `vanilla`): residual inputs are scaled by
    1/√2 and block outputs by 1/2, the last layer is spectrally normalised, and the activation is an uncentered
    softplus steep enough to be a ReLU in all but name (their code; the paper only says "standard").

    Returns:
        The network, images (B, *in_shape) in [0, 1] to logits (B, num_classes).
    """
    return build(backbone, num_classes, in_shape, Layers())
