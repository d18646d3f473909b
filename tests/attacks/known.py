"""Models of known robustness, small nets to train, and the list of attacks: shared by the tests of attacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.autoattack_raced import autoattack_raced
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core import registry


def targeted(*args, **kwargs) -> Tensor:
    return apgd(*args, loss="targeted", **kwargs)


def quick_square(*args, **kwargs) -> Tensor:
    return square(*args, **{"n_queries": 300, **kwargs})


def quick_autoattack(*args, **kwargs) -> Tensor:
    return autoattack(*args, **{"steps": 20, "n_queries": 100, **kwargs})


def quick_raced(*args, **kwargs) -> Tensor:
    return autoattack_raced(*args, **{"steps": 20, "n_queries": 100, **kwargs})


QUICK = {"square": quick_square, "autoattack": quick_autoattack, "autoattack_raced": quick_raced}
# Every registered attack, so that a new one is held to the laws by being there.
ALL: dict[str, Callable[..., Tensor]] = {
    **{entry.name: QUICK.get(entry.name, entry.function) for entry in registry.attacks},
    "apgd-targeted": targeted,
}
STRONG = ("pgd", "apgd", "apgd-targeted", "fab", "autoattack", "autoattack_raced", "fmn")


class Linear(nn.Module):
    """z = W x + b on flattened images; its margins and distances are known exactly."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)

    @classmethod
    def random(cls, classes: int, features: int, seed: int = 0) -> Linear:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, features, generator=generator)
        return cls(weight, torch.randn(classes, generator=generator))


class Scaled(nn.Module):
    """The same decisions with logits times a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


def flags(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return where the model is right, bool (B,)."""
    with torch.no_grad():
        return model(x).argmax(1) == y


def size(delta: Tensor, norm: str) -> Tensor:
    flat = delta.double().flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def train(x: Tensor, y: Tensor, eps: float) -> nn.Module:
    """Train a small convolutional net with batch norm, on adversarial examples if eps > 0; ends in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(5):
            for part in torch.randperm(len(x)).split(50):
                image, label = x[part], y[part]
                if eps:
                    image = pgd(model, image, label, eps=eps, steps=2, losses=["ce"])
                optimizer.zero_grad()
                F.cross_entropy(model(image), label).backward()
                optimizer.step()
    return model.eval()
