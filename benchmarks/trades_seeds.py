"""Do some seeds of TRADES mask their own gradients? Twenty of them on digits: `python -m benchmarks.trades_seeds`."""

from __future__ import annotations

from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.core.balls import ascent, into
from bench.attacks.pgd import pgd
from bench.core.torch_state import eval_mode
from bench.models.backbones import build
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks

IMAGES: Final = 200
EPS: Final = 0.5
STEPS: Final = 3  # of the inner maximisation
SEEDS: Final = range(10)
BETAS: Final = (6.0, 1.0)


def trades(model: nn.Module, x: Tensor, y: Tensor, *, beta: float) -> dict[str, Tensor]:
    """Return the terms of Zhang et al. 2019, eq. (5), in l2, for images x (B, C, H, W) and labels y (B,)."""
    with eval_mode(model):
        clean = model(x).detach().softmax(1)
        point = (x + 0.001 * torch.randn_like(x)).clamp(0, 1)
        for _ in range(STEPS):
            leaf = point.detach().requires_grad_()
            divergence = F.kl_div(model(leaf).log_softmax(1), clean, reduction="sum")
            (gradient,) = torch.autograd.grad(divergence, leaf)
            point = into(x, point + 2.5 * EPS / STEPS * ascent(gradient, "l2"), EPS, "l2").detach()
    z = model(x)
    distance = F.kl_div(model(point).log_softmax(1), z.softmax(1), reduction="batchmean")
    return {"cross_entropy": F.cross_entropy(z, y), "kl": beta * distance}


def main() -> None:
    """Print clean accuracy and what PGD leaves on either loss, seed by seed."""
    networks = Networks()
    x, y = networks.images("digits", IMAGES)
    for beta in BETAS:
        for seed in SEEDS:
            model = networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE), partial(trades, beta=beta), seed=seed)
            points = {"clean": x, "ce": pgd(model, x, y, eps=EPS, losses=("ce",))}
            points["margin"] = pgd(model, x, y, eps=EPS, losses=("margin",))
            points["both, 3 restarts"] = pgd(model, x, y, eps=EPS, restarts=3)
            left = {name: (model(p).argmax(1) == y).float().mean().item() for name, p in points.items()}
            print(f"beta {beta:g} seed {seed}: " + ", ".join(f"{name} {value:.1%}" for name, value in left.items()))


if __name__ == "__main__":
    main()
