"""Models that answer differently at each call: declared, they are judged by votes; undeclared, they are refused."""

import pytest
import torch
from torch import nn

import bench
from bench.attacks.apgd import apgd
from bench.attacks.core import search
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.pgd import pgd
from bench.core.errors import UsageError
from bench.measuring.judge import judge
from bench.measuring.model_contract import BadModel, check_model
from bench.measuring.passes import counted


class NoisyLine(nn.Module):
    """Two classes by the first pixel against a threshold that is drawn anew for each image."""

    def __init__(self, sigma=0.1):
        super().__init__()
        self.sigma = sigma
        self.weight = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        gap = self.weight * (x[:, 0, 0, 0] - 0.5 + self.sigma * torch.randn(len(x)))
        return torch.stack([-gap, gap], 1)


class Fixed(NoisyLine):
    def forward(self, x):
        gap = self.weight * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([-gap, gap], 1)


@pytest.fixture
def x():
    images = torch.full((12, 1, 2, 2), 0.5)
    images[:, 0, 0, 0] = torch.linspace(0.1, 0.9, 12)
    return images


@pytest.fixture
def model():
    return RandomisedModel(NoisyLine()).eval()


@torch.no_grad()
def test_a_decision_is_a_function_of_the_image_alone(model, x):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = model(x)
    assert torch.equal(torch.get_rng_state(), before), "the caller's generators are left alone"
    torch.manual_seed(6)
    assert torch.equal(model(x), whole)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in x]), whole)
    torch.testing.assert_close(model(x.flip(0)).flip(0), whole)


@torch.no_grad()
def test_a_decision_is_the_class_of_most_votes(model, x):
    counts, probability = model.vote(x, 4000, 3)
    exact = torch.distributions.Normal(0, 0.1).cdf(x[:, 0, 0, 0] - 0.5)
    torch.testing.assert_close(counts[:, 1] / 4000, exact, atol=0.04, rtol=0)
    torch.testing.assert_close(probability.sum(1), torch.ones(12))
    far = (x[:, 0, 0, 0] - 0.5).abs() > 0.05
    assert torch.equal(model(x).argmax(1)[far], (x[:, 0, 0, 0] > 0.5).long()[far])


def test_an_estimate_has_the_gradient_of_the_mean_probability(model, x):
    point = x[4:5].clone().requires_grad_()
    model.draws = 4000
    (grad,) = torch.autograd.grad(model(point)[0, 1], point)
    step = torch.zeros_like(point)
    step[0, 0, 0, 0] = 1e-3
    held = model.held(4000)
    with torch.no_grad():
        difference = (held(point + step) - held(point - step))[0, 1] / 2e-3
    assert float(grad[0, 0, 0, 0]) == pytest.approx(float(difference), rel=0.1)


def test_estimates_are_drawn_anew_and_repeat_from_the_start(model, x):
    first, second = search.predict(model, x), search.predict(model, x)
    assert not torch.equal(first, second)
    model.restart()
    assert torch.equal(search.predict(model, x), first)


def test_passes_of_the_network_are_counted(model, x):
    with counted(model) as passes, torch.no_grad():
        model(x)
        model.estimate(x)
    assert passes.forwards == 12 * (model.votes + model.draws)


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_attacks_in_expectation_break_what_lies_within_reach_and_nothing_else(model, x, attack):
    y = (x[:, 0, 0, 0] > 0.5).long()
    x_adv = attack(model, x, y, eps=0.2, steps=10)
    broken = judge(model, x, y, x_adv, eps=0.2, norm="l2").broken
    distance = (x[:, 0, 0, 0] - 0.5).abs()
    assert broken[distance < 0.15].all()
    assert not broken[distance > 0.25].any()


def test_an_attack_does_not_stop_at_the_luck_of_a_few_draws(x):
    """At a tie every second estimate says broken: only clear odds end a search."""
    model, tie = RandomisedModel(NoisyLine(0.5), draws=2).eval(), torch.full((200, 1, 2, 2), 0.5)
    tie += torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 1e-4
    best = search.Best("test", model, tie, torch.zeros(200, dtype=torch.long))
    assert bool((best.margin[~best.stopped] > 0).any())
    assert bool((best.margin[best.stopped] > 1).all())


def test_an_undeclared_one_is_refused_and_told_how_to_declare_it(x):
    with pytest.raises(BadModel, match=r"randomised=True"):
        check_model(NoisyLine().eval(), x)
    assert check_model(RandomisedModel(NoisyLine()).eval(), x) == 2


def test_one_that_is_not_random_is_refused_as_randomised(x):
    with pytest.raises(BadModel, match=r"model Fixed: expected answers that differ from draw to draw"):
        check_model(RandomisedModel(Fixed()).eval(), x)


def test_in_memory_it_is_declared_by_an_argument(x):
    y = (x[:, 0, 0, 0] > 0.5).long()
    table = bench.evaluate(NoisyLine(0.02), data=(x, y), evaluations=["accuracy", "pgd_l2"], eps=0.1, randomised=True)
    again = bench.evaluate(NoisyLine(0.02), data=(x, y), evaluations=["accuracy", "pgd_l2"], eps=0.1, randomised=True)
    assert table.equals(again)
    assert table["clean_correct"].mean() > 0.9
    with pytest.raises(UsageError, match=r"expected evaluations of randomised models, got curvature"):
        bench.evaluate(NoisyLine(), data=(x, y), evaluations=["accuracy", "curvature"], randomised=True)
    default = bench.evaluate(NoisyLine(0.02), data=(x[:4], y[:4]), eps=0.1, randomised=True)
    assert "curvature" not in default
    assert set(default["autoattack_l2_0.1_broken_by"]) <= {"", "clean", "apgd-ce"}
