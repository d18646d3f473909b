"""The native PGD of SecML-Torch, called as ours is; an optional library."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated

import torch
from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, optional
from bench.attacks.core.placed import placed
from bench.core.ranges import Ge, Gt


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 40,
    rel_stepsize: Annotated[float, Gt(0)] | None = None,
    random_start: bool = True,
) -> Tensor:
    """Return the points of SecML-Torch's own PGD (not those of the libraries that it wraps), (B, C, H, W).

    It returns the point of largest loss of the path, without the last one, which it does not look at. Its trap: the
    random start is drawn around the image and then projected as if it were a perturbation, so that it lies on the
    sphere in the direction of the image's own pixels, almost the same point at every seed.

    Arguments as for our `pgd`.

    Raises:
        ModuleNotFoundError: secml-torch is not installed.
        ValueError: unknown norm.
    """
    checked("secml-torch's pgd", norm)
    kind = _library("adv.evasion.pgd").PGDNative
    wrapped = _library("models.pytorch.base_pytorch_nn").BasePyTorchClassifier
    step = eps * (2.5 / steps if rel_stepsize is None else rel_stepsize)
    data = torch.utils.data.TensorDataset(x.detach(), y)
    with isolated(model, x, seed):
        attack = kind(perturbation_model=norm, epsilon=eps, num_steps=steps, step_size=step, random_start=random_start)
        found = attack(wrapped(placed(model, x)), torch.utils.data.DataLoader(data, batch_size=len(x)))
        return torch.cat([batch[0] for batch in found]).detach().to(x.device)


def _library(module: str) -> ModuleType:
    """Import a module of secmlt."""
    return optional(f"secmlt.{module}", "secml-torch", "Install it: `pip install secml-torch tqdm`.")
