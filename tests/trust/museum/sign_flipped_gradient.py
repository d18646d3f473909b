"""A backward pass with the wrong sign."""

from typing import Any

import torch
from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks


class Flip(torch.autograd.Function):
    """The identity, with minus one as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Flipped(nn.Module):
    """A network whose gradients point the other way."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(Flip.apply(x))


@fake(source="protocol, section 5", seen_by=("G3",), adaptive=Adaptive(lambda m: m.network), quick=True)
def sign_flipped_gradient(networks: Networks) -> nn.Module:
    """Flip the sign of the gradient: every gradient attack walks away from the boundary."""
    return Flipped(networks.trained())
