"""Curvature regularisation by finite differences of input gradients (CURE), in two variants."""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.core.torch_state import eval_mode
from bench.models.backbones import build
from bench.models.defenses.gradreg import summed_loss_and_gradient

BIBTEX = """@inproceedings{moosavi2019robustness,
  title     = {Robustness via Curvature Regularization, and Vice Versa},
  author    = {Moosavi-Dezfooli, Seyed-Mohsen and Fawzi, Alhussein and Uesato, Jonathan and Frossard, Pascal},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2019}
}"""

Variant = Literal["table1", "reference"]

# 1/128²: the authors' 1e-3 · 1e3/B · Σ‖·‖² of mean-loss gradients at their batch of 128, as a factor of the mean.
TABLE1_LAMBDA, TABLE1_H = 1 / 128**2, 1.0
# Default of the reference's code, and the steps of its example notebook: one per epoch, then the last one.
REFERENCE_LAMBDA, REFERENCE_H = 4.0, (0.1, 0.4, 0.8, 1.8, 3.0)


class StepLength(nn.Module):
    """The length h of the finite difference, which may change from epoch to epoch; holds no weights.

    Args:
        lengths: h of epoch 0, 1, …; the last holds for all later ones, and until `set_epoch` is first called.
    """

    def __init__(self, lengths: tuple[float, ...]) -> None:
        super().__init__()
        self.lengths = lengths
        self.h = lengths[-1]

    def set_epoch(self, epoch: int) -> bool:
        """Take the h of an epoch, counted from 0, and return whether it is another; called as each epoch begins."""
        before, self.h = self.h, self.lengths[min(epoch, len(self.lengths) - 1)]
        return self.h != before


def direction(gradient: Tensor) -> Tensor:
    """Return sign(g_i)/‖sign(g_i)‖ per sample, (B, C, H, W), without its own gradient; 0 where g_i = 0."""
    sign = gradient.detach().sign()
    return sign / sign.flatten(1).norm(dim=1).clamp_min(1.0).view(-1, *[1] * (sign.dim() - 1))


def loss(
    model: nn.Module, x: Tensor, y: Tensor, *, variant: Variant, lambda_curvature: float | None
) -> dict[str, Tensor]:
    """Return mean cross-entropy plus the penalty of the variant at x (B, C, H, W), y (B,); see `cure`."""
    h = next(m.h for m in model.modules() if isinstance(m, StepLength))
    if variant == "table1":
        factor = TABLE1_LAMBDA if lambda_curvature is None else lambda_curvature
        total, gradient = summed_loss_and_gradient(model, x, y)
        _, moved = summed_loss_and_gradient(model, x + h * direction(gradient), y)
        return {"cross_entropy": total / len(x), "curvature": factor * (moved - gradient).square().sum() / len(x)}
    factor = REFERENCE_LAMBDA if lambda_curvature is None else lambda_curvature
    cross_entropy = F.cross_entropy(model(x), y)
    with eval_mode(model):
        _, gradient = summed_loss_and_gradient(model, x, y)
        _, moved = summed_loss_and_gradient(model, x + h * direction(gradient), y)
    return {"cross_entropy": cross_entropy, "curvature": factor * _norms(moved - gradient).mean()}


def _norms(difference: Tensor) -> Tensor:
    """Return ‖d_i‖ per sample, (B,), with gradient 0 instead of NaN where d_i = 0."""
    squares = difference.flatten(1).square().sum(1)
    positive = squares > 0
    return squares.where(positive, squares.new_ones(())).sqrt() * positive


@defense(
    source='Moosavi-Dezfooli et al. 2019; Srinivas et al. 2022, Table 1, "CURE"',
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Curvature regularisation (CURE)",
    link="https://arxiv.org/abs/1811.09716",
    venue="CVPR",
    year=2019,
)
def cure(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    variant: Variant = "table1",
    lambda_curvature: Annotated[float, Ge(0)] | None = None,
    h: Annotated[float, Gt(0)] | None = None,
) -> nn.Module:
    """Train the standard network so that its input gradient changes little along the sign direction.

    With z = sign(∇ℓ)/‖sign(∇ℓ)‖₂ per sample (held constant) and Δg_i = ∇ℓ_i(x + h z) − ∇ℓ_i(x), pixels in [0, 1]:

    * variant "table1": mean cross-entropy + λ · mean_i ‖Δg_i‖², λ = 1/128² ≈ 6.1e-5, h = 1 throughout, both passes
      in training mode (so that the moved one updates batch norm too): what made the paper's row, in a form that
      does not depend on the batch size.
    * variant "reference": mean cross-entropy + λ · mean_i ‖Δg_i‖ (not squared), λ = 4, h = 0.1, 0.4, 0.8, 1.8, 3
      over the first epochs, both gradients in eval mode: the original authors' published code. Differs from it:
      pixels are not normalised, and it trains from scratch with the suite's recipe instead of fine-tuning with Adam.
      From scratch λ = 4 can stop learning altogether: on the digits suite's recipe (ConvNet, seed 0, CPU) it stays
      at chance, 10 % accuracy, where λ = 0.1 reaches 97.5 %.

    Expected (paper, CIFAR-100, ResNet-18, 200 epochs, 2 runs): accuracy 76.5 %, mean curvature 116.3.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        variant: one of the two above.
        lambda_curvature: λ; None is the variant's.
        h: one length for all epochs; None is the variant's.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    model = build(backbone, num_classes, in_shape)
    own = (TABLE1_H,) if variant == "table1" else REFERENCE_H
    model.step_length = StepLength(own if h is None else (h,))
    return model
