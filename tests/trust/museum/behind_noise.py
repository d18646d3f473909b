"""Fakes that hide behind declared randomness: no gradient at all, one that is noise, verdicts that are luck."""

import torch
from torch import Tensor, nn

from bench.attacks.core.draws import RandomisedModel
from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks


class NoisyGradient(torch.autograd.Function):
    """The identity, with a gradient whose sign is drawn anew for every image."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * (2 * torch.randint(0, 2, (len(gradient), 1, 1, 1)) - 1)


class Behind(nn.Module):
    """A network with something random before it and something random behind."""

    def __init__(self, network: nn.Module, kind: str) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "dither":
            levels = (4 * x.detach() + torch.rand_like(x)).floor() / 4
            return self.network(levels + 0 * x) + 1e-30 * x.flatten(1).sum(1, keepdim=True)
        if self.kind == "signs":
            return self.network(NoisyGradient.apply(x + 0.02 * torch.randn_like(x)))
        logits = self.network(x)
        return torch.where(torch.rand(len(x), 1) < 0.96, torch.randn_like(logits) + 0.02 * logits, logits)


ATTACK = Adaptive(lambda m: m.network.network)


@fake(source="Athalye et al. 2018, sections 4.1 and 4.2", seen_by=("G3",), adaptive=ATTACK)
def random_dithering(networks: Networks) -> nn.Module:
    """Round each pixel up or down at random, to five levels, and declare it: there is no gradient to average."""
    return RandomisedModel(Behind(networks.trained(), "dither"))


@fake(source="Athalye et al. 2018, section 4.2", seen_by=("R3",), adaptive=ATTACK)
def random_signs(networks: Networks) -> nn.Module:
    """Draw the sign of the gradient at random: the mean over draws is next to nothing and points anywhere."""
    return RandomisedModel(Behind(networks.trained(), "signs"))


@fake(source="a verdict by chance", seen_by=("R1",))
def random_answers(networks: Networks) -> nn.Module:
    """Answer at random 24 times of 25: the vote is the network's by a hair, and other draws turn it."""
    return RandomisedModel(Behind(networks.trained(), "answers"))
