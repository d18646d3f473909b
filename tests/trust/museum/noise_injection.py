"""Idea: inject noise, drawn from the image itself so that the answer repeats."""

import torch
from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks

DEVIATION = 0.3


class SeededNoise(nn.Module):
    """A network on images with noise that a hash of the image determines: deterministic, and never smooth."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        flat = (x.detach().flatten(1).double() * 2**24).long()
        place = torch.arange(1, flat.shape[1] + 1)
        mixed = (flat * (place * 0x9E3779B97F4A7C15 % 2**31 * 2 + 1)).sum(1, keepdim=True)
        bits = (mixed ^ (mixed >> 17)) * (2 * place + 1) * 0x5851F42D4C957F2D
        noise = ((bits >> 20) % 2**24).to(x.dtype) / 2**24 - 0.5
        return self.network(x + DEVIATION * noise.view_as(x))


@fake(
    source="self-study course: noise injection",
    seen_by=("G3",),
    adaptive=Adaptive(lambda m: m.network),
)
def noise_injection(networks: Networks) -> nn.Module:
    """Add noise seeded by the image's own bits: it repeats, but the smallest step draws it anew."""
    return SeededNoise(networks.trained())
