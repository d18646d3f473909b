"""Adversarial training with a few steps of projected gradient ascent in the l2 or linf ball."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.decorators import defense
from bench.core.errors import UsageError
from bench.core.ranges import Ge, Gt
from bench.core.recipe import Recipe
from bench.core.torch_state import eval_mode
from bench.models.backbones import build
from bench.models.backbones.blocks import folded_norms

BIBTEX = """@inproceedings{madry2018towards,
  title     = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author    = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year      = {2018}
}"""


def ascend(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, step_size: float, norm: str = "l2"
) -> Tensor:
    """Return adversarial examples that raise the cross-entropy at y, (B, C, H, W).

    Start uniform in the ball, `steps` steps along the per-sample normalised gradient, or its sign for linf (no step
    where it is 0), each followed by projection onto ball and box; the last iterate is returned. Runs in eval mode, so
    that running statistics and spectral vectors stay those of the training passes; only gradients in x are computed.

    Args:
        model: logits (B, K) from images.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball around x.
        steps: gradient steps.
        step_size: length of a step in the norm.
        norm: "l2" or "linf".
    """
    with eval_mode(model), folded_norms(model):
        x_adv = (x + _start(x, eps, norm)).clamp(0, 1)
        for _ in range(steps):
            gradient = _input_gradient(model, x_adv, y)
            if norm == "linf":
                shift = (x_adv + step_size * gradient.sign() - x).clamp(-eps, eps)
            else:
                step = gradient * _per_sample(step_size / _norms(gradient).clamp_min(1e-30), x)
                shift = _into_ball(x_adv + step - x, eps)
            x_adv = (x + shift).clamp(0, 1)
    return x_adv


def _start(x: Tensor, eps: float, norm: str) -> Tensor:
    """Return shifts (B, C, H, W), uniform in the ball.

    Drawn in float32 and in order whatever x's type and layout, so that every way of computing starts alike.
    """
    if norm == "linf":
        return eps * torch.empty_like(x).copy_(2 * torch.rand(x.shape, device=x.device) - 1)
    shift = torch.empty_like(x).copy_(torch.randn(x.shape, device=x.device))
    radius = eps * torch.rand(len(x), device=x.device).to(x.dtype) ** (1 / x[0].numel())
    return shift * _per_sample(radius / _norms(shift), x)


def ascend_as_released(model: nn.Module, x: Tensor, *, eps: float, steps: int) -> Tensor:
    """Return what the paper's released code trains on, (B, C, H, W); weaker than `ascend`, kept for comparison.

    Steps of 0.1·eps, so that 3 of them use about 0.29 of the budget; labels predicted by the model; no clipping to
    [0, 1]; start uniform in the cube of half-width eps, projected, hence almost surely on the sphere; squared
    gradients of the batch's mean loss floored at 1e-12; all passes in the model's mode, in training with their
    updates of batch norm.

    Args:
        model: logits (B, K) from images.
        x: images (B, C, H, W) in [0, 1].
        eps: l2 radius of the ball around x.
        steps: gradient steps.
    """
    with torch.no_grad():
        y = model(x).argmax(1)
    cube = torch.empty_like(x).copy_(2 * torch.rand(x.shape, device=x.device) - 1)
    x_adv = x + _into_ball(cube * eps, eps)
    for _ in range(steps):
        gradient = _input_gradient(model, x_adv, y) / len(x)
        step = gradient * _per_sample(0.1 * eps / _norms(gradient).clamp_min(1e-6), x)
        x_adv = x + _into_ball(x_adv + step - x, eps)
    return x_adv


def _input_gradient(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the summed cross-entropy; asking for x alone leaves the weights' gradients out."""
    x_adv = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)[0]


def _norms(shift: Tensor) -> Tensor:
    """Return the l2 norm of every sample, (B,)."""
    return shift.flatten(1).norm(dim=1)


def _per_sample(factor: Tensor, x: Tensor) -> Tensor:
    """Return factors (B,) in the shape that broadcasts over x (B, …)."""
    return factor.view(-1, *[1] * (x.dim() - 1))


def _into_ball(shift: Tensor, eps: float) -> Tensor:
    """Return the shifts with those longer than eps (l2) scaled to eps."""
    return shift * _per_sample((eps / _norms(shift).clamp_min(1e-30)).clamp_max(1.0), shift)


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    step_size: float | None,
    released: bool,
) -> dict[str, Tensor]:
    """Return mean cross-entropy at adversarial examples of x (B, C, H, W) and the true labels y (B,)."""
    if released:
        x_adv = ascend_as_released(model, x, eps=eps, steps=steps)
    else:
        size = 2.5 * eps / max(steps, 1) if step_size is None else step_size
        x_adv = ascend(model, x, y, eps=eps, steps=steps, step_size=size, norm=norm)
    return {"adversarial_cross_entropy": F.cross_entropy(model(x_adv), y)}


@defense(
    source='Madry et al. 2018; Srinivas et al. 2022, Table 1, "Adversarial Training"',
    recipe=Recipe(loss=loss),
    bibtex=BIBTEX,
    title="Adversarial training",
    link="https://arxiv.org/abs/1706.06083",
    venue="ICLR",
    year=2018,
)
def adversarial_training(
    num_classes: int,
    in_shape: tuple[int, int, int],
    backbone: str,
    *,
    eps: Annotated[float, Ge(0)] = 0.1,
    norm: Literal["l2", "linf"] = "l2",
    steps: Annotated[int, Ge(1)] = 3,
    step_size: Annotated[float, Gt(0)] | None = None,
    released: bool = False,
) -> nn.Module:
    """Train the standard network on adversarial examples found by projected gradient ascent against itself.

    Loss: mean cross-entropy at those alone, true labels. The attack uses the whole budget, unlike the
    paper's released code, which is `released=true` (see `ascend_as_released`). The attack's passes run in eval
    mode (choice of Zhang et al. 2019, TRADES; the paper is silent, its code uses training mode). Expected (paper,
    with the weaker attack, CIFAR-100, ResNet-18, 200 epochs, 2 runs): accuracy 77.0 %, 64.7 % at eps 0.1. Expected
    (Madry et al. 2018, CIFAR-10, linf 8/255, 7 steps of 2/255, wide ResNet): accuracy 87.3 %, 45.8 % under PGD-20.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        eps: radius on [0, 1] pixels (paper: 0.1, l2).
        norm: "l2" (paper) or "linf" (Madry et al. 2018).
        steps: ascent steps (paper: 3).
        step_size: length of a step; None is 2.5·eps/steps (Madry et al. 2018). Ignored if released.
        released: True takes the released code's weaker attack, in the l2 ball alone.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes).

    Raises:
        UsageError: the released code's attack in another norm than its own.
    """
    if released and norm != "l2":
        raise UsageError(
            f"adversarial_training: expected norm 'l2' with released=true, got {norm!r}. Leave one of the two out."
        )
    return build(backbone, num_classes, in_shape)
