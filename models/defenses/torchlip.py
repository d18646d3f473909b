"""A 1-Lipschitz network of deel-torchlip's layers; an optional library (`pip install adversarial-bench[lipschitz]`)."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, Any, Final

from torch import nn

from bench.core.decorators import defense
from bench.core.ranges import Gt
from bench.core.recipe import Recipe
from bench.models.backbones import Layers, build
from bench.models.defenses.cayley import no_norm, scaled_cross_entropy
from bench.models.layers import MaxMin

BIBTEX: Final = """@inproceedings{serrurier2021achieving,
  title     = {Achieving Robustness in Classification Using Optimal Transport With Hinge Regularization},
  author    = {Serrurier, Mathieu and Mamalet, Franck and Gonz{\\'a}lez-Sanz, Alberto and Boissin, Thibaut and
               Loubes, Jean-Michel and del Barrio, Eustasio},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2021}
}"""


def _library() -> ModuleType:
    """Import deel-torchlip.

    Returns:
        The library.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        from deel import torchlip as library
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "torchlip: expected the library deel-torchlip, got none. Install it: "
            "pip install 'adversarial-bench[lipschitz]'.",
            name="deel",
        ) from error
    return library


@defense(
    source="Serrurier et al. 2021; layers of Anil, Lucas, Grosse 2019, as in deel-torchlip",
    recipe=Recipe(loss=scaled_cross_entropy),
    bibtex=BIBTEX,
    title="1-Lipschitz network (deel-torchlip)",
    link="https://arxiv.org/abs/2006.06520",
    venue="CVPR",
    year=2021,
)
def torchlip(
    num_classes: int, in_shape: tuple[int, int, int], backbone: str, *, scale: Annotated[float, Gt(0)] = 30.0
) -> nn.Module:
    """Train a network of deel-torchlip's spectral convolutions without norm; its Lipschitz constant is about 1.

    The reshaped kernel is divided by its spectral norm, made orthogonal by Björck's iteration, and divided by the
    overlap of its windows; pairs of channels are sorted. Power iteration and Björck's iteration leave errors of
    about 1e-3, so what may be certified is computed from the weights as for every row, not taken from the library.
    Differs from the paper: cross-entropy of scaled logits stands for the hinge-regularised optimal-transport loss;
    the skeleton is that of `standard`. Expected: the paper has no accuracy for this loss.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        scale: factor of the logits in the loss.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).

    Raises:
        ModuleNotFoundError: deel-torchlip is not installed.
    """
    library = _library()

    def conv(cin: int, cout: int, kernel: int, *, in_size: tuple[int, int], stride: int, **_: Any) -> nn.Module:
        layer: nn.Module = library.SpectralConv2d(cin, cout, kernel, stride=stride, padding=kernel // 2)
        return layer

    layers = Layers(conv=conv, norm=no_norm, activation=MaxMin, linear=library.SpectralLinear)
    return build(backbone, num_classes, in_shape, layers)
