"""TRADES: cross-entropy on images plus β times how far the prediction can be moved within a ball."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.core import balls
from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.core.torch_state import eval_mode
from bench.models.backbones import build

BIBTEX: Final = """@inproceedings{zhang2019theoretically,
  title     = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author    = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric P. and El Ghaoui, Laurent and
               Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year      = {2019}
}"""

START: Final = 1e-3  # standard deviation of the start's noise, the authors'


def divergence(logits: Tensor, moved: Tensor) -> Tensor:
    """Return KL(softmax(logits) ‖ softmax(moved)) per example, (B,), of logits (B, K) each."""
    return F.kl_div(moved.log_softmax(1), logits.log_softmax(1), reduction="none", log_target=True).sum(1)


def farthest_prediction(model: nn.Module, x: Tensor, *, eps: float, norm: str, steps: int, step_size: float) -> Tensor:
    """Return points of the ball around x where the prediction differs most from that at x, (B, C, H, W).

    Projected steepest ascent on the divergence, in eval mode, from x plus Gaussian noise of 1e-3.

    Args:
        model: logits (B, K) from images.
        x: images (B, C, H, W) in [0, 1].
        eps: radius of the ball.
        norm: "l2" or "linf".
        steps: gradient steps.
        step_size: their length in the norm.
    """
    with eval_mode(model), torch.enable_grad():
        with torch.no_grad():
            logits = model(x)
        point = balls.into(x, x + START * torch.randn_like(x), eps, norm)
        for _ in range(steps):
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(logits, model(point)).sum(), point)
            point = balls.into(x, point.detach() + step_size * balls.ascent(gradient, norm), eps, norm)
    return point.detach()


def loss(
    model: nn.Module, x: Tensor, y: Tensor, *, beta: float, eps: float, norm: str, steps: int
) -> dict[str, Tensor]:
    """Return mean cross-entropy at x (B, C, H, W), y (B,), plus β · mean KL(p(x) ‖ p(x')), x' in the ball around x."""
    moved = farthest_prediction(model, x, eps=eps, norm=norm, steps=steps, step_size=2.5 * eps / steps)
    logits, moved_logits = model(torch.cat([x, moved])).chunk(2)
    return {
        "cross_entropy": F.cross_entropy(logits, y),
        "divergence": beta * divergence(logits, moved_logits).mean(),
    }


@defense(
    source="Zhang et al. 2019, equation (5) and algorithm 1",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="TRADES",
    link="https://arxiv.org/abs/1901.08573",
    venue="ICML",
    year=2019,
)
def trades(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    beta: Annotated[float, Ge(0)] = 6.0,
    eps: Annotated[float, Gt(0)] = 0.1,
    norm: Literal["l2", "linf"] = "l2",
    steps: Annotated[int, Ge(1)] = 3,
) -> nn.Module:
    """Train the standard network with cross-entropy plus β times the divergence of predictions within a ball.

    β (1/λ in the paper) moves the trade-off: 0 is plain training, larger is more robust and less accurate. Differs
    from the paper's experiments: l2 by default, with the radius and the three steps of `adversarial_training` instead
    of linf 0.031 and ten, so that the two rows differ in the objective alone; step length 2.5·eps/steps; images and
    moved images pass through batch norm as one batch. Expected (paper, CIFAR-10, linf 0.031, WRN-34-10, β = 6):
    accuracy 84.9 %, 56.6 % under PGD-20; 53.1 % under AutoAttack (RobustBench).

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        beta: weight of the divergence (paper: 1 and 6).
        eps: radius of the ball on [0, 1] pixels.
        norm: "l2" or "linf".
        steps: ascent steps (paper: 10).

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    return build(backbone, num_classes, in_shape)
