"""Local linearity regularisation: the loss within a ball is held near its tangent plane."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.core import balls
from bench.core.decorators import defense
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.core.torch_state import eval_mode
from bench.models.backbones import Layers, build
from bench.models.layers import Softplus

BIBTEX: Final = """@inproceedings{qin2019adversarial,
  title     = {Adversarial Robustness through Local Linearization},
  author    = {Qin, Chongli and Martens, James and Gowal, Sven and Krishnan, Dilip and Dvijotham, Krishnamurthy and
               Fawzi, Alhussein and De, Soham and Stanforth, Robert and Kohli, Pushmeet},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}"""


def _losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each example, (B,)."""
    return F.cross_entropy(model(x), y, reduction="none")


def residual(here: Tensor, there: Tensor, slope: Tensor) -> Tensor:
    """Return |ℓ(x + δ) − ℓ(x) − δᵀ∇ℓ(x)| per example, (B,), from the three numbers of each."""
    return (there - here - slope).abs()


def along(delta: Tensor, gradient: Tensor) -> Tensor:
    """Return δᵀg per example, (B,), of δ and g (B, C, H, W)."""
    return (delta * gradient).flatten(1).sum(1)


def least_linear(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, steps: int) -> tuple[Tensor, Tensor]:
    """Return perturbations in the ball with a large residual, (B, C, H, W), and that residual, (B,); eq. (6).

    Projected steepest ascent in eval mode from a random point of the ball, steps of 2.5·eps/steps.

    Args:
        model: logits (B, K) from images.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball.
        norm: "l2" or "linf".
        steps: gradient steps.
    """
    with eval_mode(model), torch.enable_grad():
        at = x.detach().requires_grad_()
        here = _losses(model, at, y)
        (gradient,) = torch.autograd.grad(here.sum(), at)
        here = here.detach()
        point = balls.into(x, x + eps * balls.ascent(torch.randn_like(x), norm), eps, norm)
        for _ in range(steps):
            point = point.detach().requires_grad_()
            gap = residual(here, _losses(model, point, y), along(point - x, gradient))
            (ascent,) = torch.autograd.grad(gap.sum(), point)
            point = balls.into(x, point.detach() + 2.5 * eps / steps * balls.ascent(ascent, norm), eps, norm)
        delta = point.detach() - x
        with torch.no_grad():
            gap = residual(here, _losses(model, x + delta, y), along(delta, gradient))
    return delta, gap


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    lambda_residual: float,
    mu: float,
    eps: float,
    norm: str,
    steps: int,
) -> dict[str, Tensor]:
    """Return mean cross-entropy at x (B, C, H, W), y (B,), plus the two terms of eq. (8); see `local_linearity`."""
    delta, _ = least_linear(model, x, y, eps=eps, norm=norm, steps=steps)
    at = x.detach().requires_grad_()
    here, there = _losses(model, torch.cat([at, x + delta]), torch.cat([y, y])).chunk(2)
    (gradient,) = torch.autograd.grad(here.sum(), at, create_graph=True)
    slope = along(delta, gradient)
    return {
        "cross_entropy": here.mean(),
        "residual": lambda_residual * residual(here, there, slope).mean(),
        "slope": mu * slope.abs().mean(),
    }


@defense(
    source="Qin et al. 2019, equations (6) and (8)",
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Local linearity regularisation",
    link="https://arxiv.org/abs/1907.02610",
    venue="NeurIPS",
    year=2019,
)
def local_linearity(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    lambda_residual: Annotated[float, Ge(0)] = 4.0,
    mu: Annotated[float, Ge(0)] = 3.0,
    eps: Annotated[float, Gt(0)] = 0.1,
    norm: Literal["l2", "linf"] = "l2",
    steps: Annotated[int, Ge(1)] = 3,
    beta: Annotated[float, Gt(0)] = 10.0,
) -> nn.Module:
    """Train a smooth network so that its loss is nearly linear in a ball around each image.

    With δ the point of the ball that maximises γ(δ) = |ℓ(x + δ) − ℓ(x) − δᵀ∇ℓ(x)|: mean cross-entropy + λ · mean γ(δ)
    + μ · mean |δᵀ∇ℓ(x)|. The activation is a softplus, as in the paper, here with β = 10 in the skeleton of
    `standard`. Differs from the paper: l2 by default, with the radius and the three steps of `adversarial_training`
    instead of linf 8/255 and ten steps of Adam; one random start; λ and μ are the paper's for CIFAR-10. Expected
    (CIFAR-10, linf 8/255, the authors' network on RobustBench): accuracy 86.3 %, 52.8 % under AutoAttack.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        lambda_residual: λ.
        mu: μ.
        eps: radius of the ball on [0, 1] pixels.
        norm: "l2" or "linf".
        steps: ascent steps.
        beta: β of the softplus.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).
    """
    return build(backbone, num_classes, in_shape, Layers(activation=partial(Softplus, beta)))
