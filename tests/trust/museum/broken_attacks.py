"""A compact PGD, and the same with one thing wrong at a time: the tests of attacks must see every fault."""

from functools import partial

import torch
from torch import Tensor, nn

from bench.museum.exhibit import FaultyAttack

SEEN_BY = {
    "step too small": ("closed form", "planted truth", "foolbox"),
    "sign flipped": ("closed form", "planted truth", "foolbox"),
    "wrong label": ("closed form", "planted truth"),
    "no projection": ("ball and box", "planted truth"),
    "no box": ("ball and box",),
    "normalised over the batch": ("alone or together", "foolbox"),
    "last iterate": ("best point",),
    "predicted labels": ("own mistakes",),
}


def plain_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    steps: int = 20,
    fault: str = "",
) -> Tensor:
    """Run PGD in l2 from the clean image and keep the best point, with one fault; "" is right."""
    label = {"wrong label": (y + 1) % model(x).shape[1], "predicted labels": model(x).argmax(1)}.get(fault, y)
    length = 2.5 * eps / steps * (0.01 if fault == "step too small" else 1)
    point, best, best_loss = x, x, torch.full((len(x),), -torch.inf)
    for step in range(steps + 1):
        point = point.detach().requires_grad_()
        logits = model(point)
        others = logits.scatter(1, label[:, None], -torch.inf)
        loss = others.logsumexp(1) - logits.gather(1, label[:, None])[:, 0]
        better = loss.detach() > best_loss
        best = torch.where(better.view(-1, 1, 1, 1), point.detach(), best)
        best_loss = torch.where(better, loss.detach(), best_loss)
        if step == steps:
            break
        (g,) = torch.autograd.grad(loss.sum(), point)
        norms = g.flatten(1).norm(dim=1)
        norms = g.norm().expand(len(x)) if fault == "normalised over the batch" else norms
        g = g / norms.clamp_min(1e-12).view(-1, 1, 1, 1)
        point = point.detach() + (-length if fault == "sign flipped" else length) * g
        delta = point - x
        if fault != "no projection":
            delta = delta * (eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
        point = x + delta if fault == "no box" else (x + delta).clamp(0, 1)
    return point.detach() if fault == "last iterate" else best


ATTACKS = (
    FaultyAttack("", plain_pgd),
    *(FaultyAttack(fault, partial(plain_pgd, fault=fault), seen_by) for fault, seen_by in SEEN_BY.items()),
)
