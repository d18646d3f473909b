"""Parseval networks: kernels whose rows stay close to orthonormal."""

from __future__ import annotations

from typing import Annotated, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.decorators import defense
from bench.core.ranges import Ge
from bench.core.recipe import Recipe
from bench.models.backbones import Layers, build
from bench.models.layers import ParsevalConv2d

BIBTEX: Final = """@inproceedings{cisse2017parseval,
  title     = {Parseval Networks: Improving Robustness to Adversarial Examples},
  author    = {Cisse, Moustapha and Bojanowski, Piotr and Grave, Edouard and Dauphin, Yann and Usunier, Nicolas},
  booktitle = {International Conference on Machine Learning},
  year      = {2017}
}"""


def tightness(model: nn.Module) -> Tensor:
    """Return Σ ‖WᵀW − I‖_F² over the Parseval convolutions of a network, shape ()."""
    return torch.stack([m.deviation() for m in model.modules() if isinstance(m, ParsevalConv2d)]).sum()


def loss(model: nn.Module, x: Tensor, y: Tensor, *, strength: float) -> dict[str, Tensor]:
    """Return mean cross-entropy at x (B, C, H, W), y (B,), plus strength/4 · Σ ‖WᵀW − I‖²."""
    return {"cross_entropy": F.cross_entropy(model(x), y), "parseval": strength / 4 * tightness(model)}


@defense(
    source="Cisse et al. 2017, section 4",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Parseval network",
    link="https://arxiv.org/abs/1704.08847",
    venue="ICML",
    year=2017,
)
def parseval(
    num_classes: int, in_shape: tuple[int, int, int], backbone: str, *, strength: Annotated[float, Ge(0)] = 0.1
) -> nn.Module:
    """Train the standard network with kernels kept near the Parseval tight frames, WᵀW = I.

    W is the kernel as a matrix (Cout, Cin·k·k); the output of a convolution is divided by k, which bounds the norm of
    the map on images by that of W; residual branches are averaged. Loss: mean cross-entropy + s/4 · Σ ‖WᵀW − I‖². Its
    gradient in W is s·(WWᵀW − W), so one step of plain SGD with learning rate 1 on this term is the paper's
    retraction W ← (1 + s)W − s·WWᵀW. Differs from the paper: the term is part of the loss (with momentum, and the
    schedule) instead of a step of its own on sampled rows; aggregation weights are those of the skeleton, not learnt;
    batch norm without affine part stays, so that the whole network is not 1-Lipschitz. Expected (paper, CIFAR-10,
    wide ResNet): the accuracy of the plain network, and more under fast-gradient noise; the paper has no l2 attack.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        strength: s of the penalty.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    return build(backbone, num_classes, in_shape, Layers(conv=ParsevalConv2d))
