"""The binarisation test T1: what attacks find on honest networks and on ones that hide their gradient; the heads."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from bench.attacks.autoattack import autoattack
from bench.attacks.noise import noise
from bench.attacks.pgd import pgd
from bench.core import registry
from bench.measuring.judge import TOLERANCE
from bench.trust.binarisation import binarisation
from bench.trust.binary_heads import CLEARANCE, fit_heads
from bench.trust.readout import find_readout
from tests.attacks.known import Linear
from tests.bench.trust.wrong_gradients import Negated

N = 24


class Rounded(nn.Module):
    """Rounds the input to a grid: the gradient is zero everywhere."""

    def forward(self, x):
        return (x * 16).round() / 16


class SignFlipped(nn.Module):
    def forward(self, x):
        return Negated.apply(x)


class Then(nn.Module):
    """A function of a network's logits."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.function(self.network(x))


def network(*before, hidden=(32,), classes=10):
    torch.manual_seed(0)
    sizes, layers = (64, *hidden, classes), [*before, nn.Flatten()]
    for i, (given, out) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(given, out), *([nn.Softplus()] if 0 < i < len(hidden) else [])]
    return nn.Sequential(*layers).eval()


def images(n=N, seed=0):
    return 0.2 + 0.6 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(model, x, *, eps=0.5, norm="l2", seed=0, attack=pgd):
    return binarisation(model, x, torch.zeros(len(x), dtype=torch.long), eps=eps, norm=norm, seed=seed, attack=attack)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l2", 0.02), ("linf", 8 / 255)])
@pytest.mark.parametrize("hidden", [(12,), (48, 32), (300,)], ids=str)
def test_on_an_honest_network_pgd_finds_every_planted_example_and_guessing_hardly_any(hidden, norm, eps):
    found, guessed, ok = run(network(hidden=hidden), images(), eps=eps, norm=norm)
    assert ok.all()
    assert found.all()
    assert guessed.float().mean() <= 0.15


@pytest.mark.parametrize("mask", [Rounded, SignFlipped])
def test_what_a_masked_gradient_hides_is_planted_and_not_found(mask):
    found, guessed, ok = run(network(mask()), images())
    assert ok.float().mean() >= 0.9
    assert found.float().mean() <= 0.15
    assert guessed.float().mean() <= 0.15


def test_the_right_attack_on_a_masked_network_finds_them_where_one_exists():
    """The test judges attack and network together: Square asks for no gradients, and AutoAttack ends with it."""
    x = images(6)
    found, _, ok = run(network(SignFlipped()), x, attack=autoattack)
    assert found.sum() > run(network(SignFlipped()), x)[0].sum()
    assert ok.all()


@pytest.mark.parametrize(
    "function",
    [lambda z: 1000 * z, lambda z: 1e-6 * z, lambda z: z.softmax(1), lambda z: z / 7],
    ids=["times 1000", "times 1e-6", "softmax", "temperature"],
)
def test_what_follows_the_last_layer_stays_in_place(function):
    _, guessed, ok = run(Then(network(), function), images(8))
    assert ok.all()
    assert guessed.sum() <= 2


class Twice(nn.Module):
    """Calls its last layer twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(x.flatten(1)) + self.last(x.flatten(1).square())


@pytest.mark.parametrize(
    "model", [Linear.random(10, 64), Then(network(), torch.neg), Twice()], ids=["none of torch's", "negated", "twice"]
)
def test_a_network_whose_last_layer_does_not_decide_is_not_assessable(model):
    flags = torch.stack(run(model, images(4)))
    assert not flags.any()


def test_an_ensemble_of_two_heads_is_not_assessable():
    first, second = network(), network()

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return (20 * self.first(x) + self.second(x)) / 2

    assert find_readout(Mean().eval(), images(4), 100) is None


def test_a_network_that_does_without_its_last_layer_near_the_image_has_nothing_planted():
    x = images(4)

    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, given):
            if (torch.cdist(given.flatten(1), x.flatten(1)).amin(1) > 0.01).all():
                return torch.eye(10)[torch.zeros(len(given), dtype=torch.long)] + 0 * given.sum()
            return self.network(given)

    flags = torch.stack(run(Lookup().eval(), x))
    assert not flags.any()


def test_a_planted_example_that_features_cannot_tell_apart_is_left_out():
    """Below half a step of the grid nothing moves: the features of all points are equal."""
    x = ((images() * 16).round() / 16).clamp(0.1, 0.9)
    _, _, ok = run(network(Rounded()), x, eps=1e-3)
    assert not ok.any()


def test_an_inseparable_point_is_drawn_anew(monkeypatch):
    """With eight features few points of the sphere lie clearly outside of the hundred inner ones."""
    model, x = network(hidden=(8,)), images(40)
    ten = run(model, x, attack=noise)[2]
    monkeypatch.setattr("bench.trust.binarisation.ROUNDS", 1)
    one = run(model, x, attack=noise)[2]
    assert one.float().mean() < 0.5
    assert ten.sum() >= one.sum() + 15
    assert ten[one].all()


def test_the_result_belongs_to_the_image_and_the_seed():
    x, model = images(10), network(hidden=(48, 32))
    together = torch.stack(run(model, x, attack=noise))
    apart = torch.cat([torch.stack(run(model, x[i : i + 3], attack=noise)) for i in range(0, 10, 3)], 1)
    assert torch.equal(together, apart)
    turned = torch.stack(run(model, x.flip(0), attack=noise))
    assert torch.equal(together, turned.flip(1))


def test_images_whose_balls_meet_and_copies_are_attacked_apart():
    x = images(6)
    x = torch.cat([x, x[:2], x[:2] + 0.001])
    found, _, ok = run(network(), x)
    assert ok.all()
    assert found.all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_attack_gets_two_classes_and_the_points_found_lie_in_the_ball(norm):
    seen = []

    def watch(model, x, y, *, eps, norm, seed):
        x_adv = pgd(model, x, y, eps=eps, norm=norm, seed=seed)
        delta = (x_adv - x).flatten(1)
        seen.append(((delta.norm(dim=1) if norm == "l2" else delta.abs().amax(1)).max(), model(x).shape, y))
        return x_adv

    run(network(), images(), norm=norm, eps=0.1, attack=watch)
    for size, shape, y in seen:
        assert size <= 0.1 * (1 + TOLERANCE)
        assert shape == (len(y), 2)
        assert (y == 0).all()


def test_an_attack_outside_the_ball_finds_nothing():
    def outside(model, x, y, **settings):
        return (x + 5 * (pgd(model, x, y, **settings) - x)).clamp(0, 1)

    found, _, ok = run(network(), images(), attack=outside)
    assert ok.all()
    assert not found.any()


def test_the_model_is_left_as_it_was():
    model = network(hidden=(48, 32)).train()
    before = copy.deepcopy(model.state_dict())
    run(model, images(4))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(not layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("defense", ["lcnn", "standard"])
def test_the_last_layer_of_our_networks_is_found(defense):
    torch.manual_seed(0)
    model = registry.defenses.get(defense).function(10, (1, 8, 8), "convnet").eval()
    found = find_readout(model, images(4), 1)
    assert found is not None
    assert found.layer is model.fc


@pytest.mark.parametrize("d", [5, 40, 200])
def test_a_head_separates_and_its_zero_lies_close_to_the_outer_point(d):
    generator = torch.Generator().manual_seed(1)
    inner = torch.randn(7, 60, d, generator=generator)
    outer = torch.randn(7, d, generator=generator)
    outer *= 4 * d**0.5 / outer.norm(dim=1, keepdim=True)
    heads = fit_heads(inner, outer, 0.9)
    assert heads.separated.all()
    score = torch.stack([heads.scores(inner[:, j]) for j in range(60)], 1)
    top, at = score.amax(1), heads.scores(outer)
    assert (top < 0).all()
    assert torch.allclose(at / (at - top), torch.full_like(at, 0.1))
    assert (at - top > CLEARANCE * (top - score.mean(1))).all(), "clearly above"


def test_a_point_among_the_others_and_one_that_is_not_finite_are_not_separated():
    inner = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(2))
    outer = torch.stack([inner[0].mean(0), inner[1, 3], torch.full((4,), torch.nan)])
    assert not fit_heads(inner, outer, 0.9).separated.any()
