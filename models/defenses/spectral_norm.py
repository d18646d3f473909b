"""The low-curvature network with the usual spectral normalisation, of the reshaped kernel: an ablation of LCNN."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from torch import nn

from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.models.backbones import Layers, build
from bench.models.defenses.lcnn import loss
from bench.models.layers import CenteredSoftplus, KernelSpectralNormConv2d, LipschitzBatchNorm2d

BIBTEX: Final = """@inproceedings{miyato2018spectral,
  title     = {Spectral Normalization for Generative Adversarial Networks},
  author    = {Miyato, Takeru and Kataoka, Toshiki and Koyama, Masanori and Yoshida, Yuichi},
  booktitle = {International Conference on Learning Representations},
  year      = {2018}
}"""


@defense(
    source="Miyato et al. 2018, section 2.1; argued against in Srinivas et al. 2022, section 3.4.1",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Spectral norm of the reshaped kernel",
    link="https://arxiv.org/abs/1802.05957",
    venue="ICLR",
    year=2018,
)
def spectral_norm(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    lambda_beta: Annotated[float, Ge(0)] = 1e-3,
    lambda_gamma: Annotated[float, Ge(0)] = 1e-3,
    beta0: Annotated[float, Gt(0)] = 5.0,
    gamma0: Annotated[float, Gt(0)] = 10.0,
) -> nn.Module:
    """Train `lcnn` with σ of the kernel as a matrix (Cout, Cin·k·k) in place of the norm of the map on images.

    Everything else, the penalty too, is that of `lcnn`: what differs between the two rows is the normalisation of
    convolutions. Differs from Miyato et al.: a classifier, trained as all rows are; σ starts from its converged value.
    Expected: no number of the paper's main text; its section 3.4.1 says that this norm is not that of a convolution.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        lambda_beta: see `lcnn`, like the next three.
        lambda_gamma: λγ.
        beta0: initial β.
        gamma0: initial γ.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    layers = Layers(
        conv=KernelSpectralNormConv2d,
        norm=partial(LipschitzBatchNorm2d, gamma0=gamma0),
        activation=partial(CenteredSoftplus, beta0),
    )
    return build(backbone, num_classes, in_shape, layers)
