"""What the draws of a randomised model do: an honest one repeats and agrees, fakes behind noise do not."""

import pytest
import torch
from torch import nn

from bench.attacks.core.draws import RandomisedModel
from bench.models.defenses.smoothing import Smoothed
from bench.trust.probes.draws import draws


class RandomSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (2 * torch.randint(0, 2, (len(gradient), 1, 1, 1)) - 1)


class Wrapped(nn.Module):
    def __init__(self, network, before=lambda x: x, behind=lambda z: z):
        super().__init__()
        self.network, self.before, self.behind = network, before, behind

    def forward(self, x):
        return self.behind(self.network(self.before(x)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


@pytest.fixture
def x():
    return torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def asked(model, x):
    model = RandomisedModel(model.eval()).eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    return draws(model, x, y)


def test_an_honest_one_repeats_and_its_gradients_agree(network, x):
    found = asked(Smoothed(network, 0.05), x)
    assert found["r1_verdict_changed"].sum() <= 2
    assert found["r1_batch_difference"].max() < 0.1
    assert found["r3_agreement"].min() > 0.9


def test_a_gradient_of_random_sign_is_seen(network, x):
    found = asked(Wrapped(Smoothed(network, 0.05), before=RandomSign.apply), x)
    assert (found["r3_agreement"] < 0.2).float().mean() > 0.3


def test_verdicts_by_luck_are_seen(network, x):
    found = asked(Wrapped(network, behind=lambda z: z.detach() + 100 * torch.randn_like(z) + 0 * z), x)
    assert found["r1_verdict_changed"].mean() > 0.2


def test_answers_that_depend_on_the_batch_are_seen(network, x):
    shifted = Wrapped(Smoothed(network, 0.01), before=lambda images: 40 * (images - images.mean(0)))
    assert asked(shifted, x)["r1_batch_difference"].max() > 0.35
