"""What the probes measure, on functions of which the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.attacks.core import balls
from bench.attacks.hopskipjump import hopskipjump
from bench.attacks.pgd import pgd
from bench.core.torch_state import frozen_eval
from bench.evaluations.trust import measured
from bench.measuring.judge import judge
from bench.trust.allotment import allot
from bench.trust.columns import NUMBERS
from bench.trust.probes.answers import answers
from bench.trust.probes.forward_pass import ENGINE, autograd_calls, forward_pass
from bench.trust.probes.grid import levels_of, on_grid, rounded
from bench.trust.probes.input_gradients import input_gradients
from bench.trust.probes.searches import FACTORS, Subject, late_rise, searches, stationarity
from tests.attacks.known import Linear


class Function(nn.Module):
    """A function of the images and of a network's logits."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.function(self, x, self.network(x))


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * grad, None


def counting(model, x, z):
    model.calls += 1
    return z


def training(model, x, z):
    model.network.train()
    return z


def differentiating(model, x, z):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(model.network(leaf).sum(), leaf)
        torch.func.grad(lambda v: model.network(v).sum())(x)
        model.network(leaf).sum().backward()
    return z


@pytest.fixture
def problem():
    x = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    network = Linear.random(4, 16, 0)
    return network, x, network(x).argmax(1)


def passed(model, x):
    with frozen_eval(model):
        return forward_pass(model, x)[0]


def test_a_forward_pass_that_changes_a_buffer_or_a_mode_is_seen(problem):
    network, x, _ = problem
    assert passed(network, x)["v1_state_changed"].tolist() == [0] * 6
    assert passed(Function(network, counting), x)["v1_state_changed"].tolist() == [1] * 6
    assert passed(Function(network, training), x)["v1_state_changed"].tolist() == [1] * 6


def test_every_way_to_run_autograd_inside_a_forward_pass_is_counted(problem):
    network, x, _ = problem
    assert passed(network, x)["d1_autograd_calls"].tolist() == [0] * 6
    assert passed(Function(network, differentiating), x)["d1_autograd_calls"].tolist() == [3] * 6


def test_autograd_is_as_it_was_after_an_error():
    before = getattr(torch.autograd, ENGINE)
    with pytest.raises(ZeroDivisionError), autograd_calls():
        _ = 1 / 0
    assert getattr(torch.autograd, ENGINE) is before


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x, z: z * (1 + 1e-3 * torch.rand(1)), "v3_repeat_difference"),
        (lambda m, x, z: z * (1 + x.mean()), "v4_batch_difference"),
        (lambda m, x, z: z + torch.arange(len(z))[:, None], "v4_batch_difference"),
        (lambda m, x, z: z.softmax(1), "g5_probabilities"),
        (lambda m, x, z: 1e-5 * z, "g5_flat"),
    ],
)
def test_answers_that_break_the_contract(problem, function, name):
    network, x, _ = problem
    sound = answers(network, x, network(x))
    assert sound[name].max() < 1e-5
    model = Function(network, function)
    found = answers(model, x, model(x))
    assert found[name].max() > 1e-4


def test_a_changed_prediction_counts_in_full(problem):
    network, x, _ = problem
    model = Function(network, lambda m, x, z: z.roll(int(len(x) == 1), 1))
    assert (answers(model, x, model(x))["v4_batch_difference"] >= 1).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("factor", "error"), [(1.0, 0.0), (1.3, 1 - 1 / 1.3), (0.5, 0.5), (-1.0, 2.0)])
def test_the_error_of_a_scaled_gradient_is_known(problem, norm, factor, error):
    network, x, y = problem
    model = Function(network, lambda m, x, z: Scaled.apply(z, factor))
    found = input_gradients(model.double(), x.double(), y, eps=0.3, norm=norm, seed=0)
    for name in ("g3_error", "g3_error_in_ball"):
        assert found[name].tolist() == pytest.approx([error] * 6, abs=1e-9)
    assert found["g1_zero_margin_gradient"].sum() == found["v2_not_finite"].sum() == 0


def test_zero_gradients_and_nan_are_flagged(problem):
    network, x, y = problem
    flat = input_gradients(Function(network, lambda m, x, z: z.detach()), x, y, eps=0.3, norm="l2", seed=0)
    assert flat["g1_zero_margin_gradient"].tolist() == flat["g2_zero_ce_gradient"].tolist() == [1] * 6
    assert flat["g3_error"].isnan().all()
    steep = input_gradients(Function(network, lambda m, x, z: 1e4 * z), x, y, eps=0.3, norm="l2", seed=0)
    assert steep["g1_zero_margin_gradient"].sum() == 0
    assert steep["g2_zero_ce_gradient"].sum() > 0  # cross-entropy of a saturated softmax
    hole = Function(network, lambda m, x, z: torch.where((x[:, 0, 0, :1] == clean[:, None]).any(1, True), z, torch.nan))
    clean = x[:, 0, 0, 0]
    assert input_gradients(hole, x, y, eps=0.3, norm="l2", seed=0)["v2_not_finite"].tolist() == [1] * 6


def test_the_late_part_of_a_rise():
    steps = torch.arange(41.0)
    path = torch.stack([steps, steps.clamp(max=20), torch.full_like(steps, -1.0), steps], 1)[None]
    path[0, 5:, 3] = torch.nan
    found = late_rise(path)
    assert found[:3].tolist() == pytest.approx([0.25, 0.0, 0.0])
    assert found[3].isnan()  # it was broken on the way


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_stationarity_of_a_linear_function(norm):
    network, x = Linear.random(2, 16, 3), torch.full((1, 1, 4, 4), 0.5)
    y = network(x).argmax(1)
    gradient = (network.weight[1 - y] - network.weight[y]).view(1, 1, 4, 4).detach()
    step = 0.2 * balls.ascent(gradient, norm)
    subject = Subject(network, x, y, 0.2, norm, 0)
    everything = torch.ones(1, dtype=torch.bool)
    ends = [float(stationarity(subject, everything, x + k * step)) for k in (1, 0, -1)]
    assert ends == pytest.approx([0.0, 1.0, 2.0], abs=1e-4)


def distances(network, x, y):
    """Return the l2 distance of each image to the nearest other class of a linear network."""
    z, w = network(x), network.weight
    gaps = (z.gather(1, y[:, None]) - z) / (w[y][:, None] - w).norm(dim=2).clamp_min(1e-12)
    return gaps.scatter(1, y[:, None], math.inf).amin(1).detach()


@pytest.fixture
def linear():
    """A linear network, and images far from the box's edges, of which about half are broken at the radius given."""
    network = Linear.random(3, 25, 5)
    x = 0.45 + 0.1 * torch.rand(24, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    y = network(x).argmax(1)
    exact = distances(network, x, y)
    return network, x, y, exact, float(exact.median()) * 1.0001


def right(network, x, y):
    return network(x).argmax(1) == y


def test_searches_agree_with_the_exact_distances_of_a_linear_network(linear):
    network, x, y, exact, eps = linear
    found = searches(Subject(network, x, y, eps, "l2", 0), right(network, x, y), None)
    robust = exact > eps
    assert found["survivor"].bool().tolist() == robust.tolist()
    assert found["g4_margin_robust"].tolist() == found["e1_robust_1"].tolist() == robust.float().tolist()
    for factor in FACTORS:
        off = found[f"e1_robust_{factor:g}"].bool() != (exact > factor * eps)
        assert not (off & ((exact / (factor * eps) - 1).abs() > 0.02)).any()
    assert not found["e2_robust"].any()
    assert found["a3_silent"].isnan().tolist() == (~robust).tolist()
    for name in ("a2_broken_by_ce", "a2_broken_by_margin", "a3_silent", "b1_random", "b4_decision", "b5_on_grid"):
        assert found[name].nansum() == 0, name
    assert found["a2_late_rise"].nan_to_num(0).max() < 0.1
    assert found["g6_stationarity"].nan_to_num(0).max() < 0.1


def test_what_a_weak_attack_left_is_found(linear):
    network, x, y, exact, eps = linear
    nothing_broken = torch.ones(len(x), dtype=torch.bool)
    found = searches(Subject(network, x, y, 1.4 * eps, "l2", 0), right(network, x, y), nothing_broken)
    assert (found["a2_broken_by_margin"][exact < 1.3 * eps] == 1).all()
    assert (found["survivor"] == 1).all()
    assert found["b4_decision"][exact < eps].mean() > 0.5


def test_only_survivors_are_searched_for_what_survivors_show(linear):
    network, x, y, exact, eps = linear
    found = searches(Subject(network, x, y, eps, "l2", 0), right(network, x, y), exact > eps)
    assert found["g6_stationarity"].isnan().tolist() == (exact <= eps).tolist()
    assert found["survivor"].bool().tolist() == (exact > eps).tolist()


def test_a_search_is_run_on_the_images_that_it_is_allotted(linear):
    network, x, y, exact, eps = linear
    rank = torch.arange(len(x)).flip(0)
    allotted = dict.fromkeys(allot(None), 0) | {"box": 5, "larger": 7, "longer": len(x)}
    subject = Subject(network, x, y, eps, "l2", 0, rank, allotted)
    found = searches(subject, right(network, x, y), exact > eps)
    assert (~found["e2_robust"].isnan()).tolist() == (rank < 5).tolist()
    assert (~found["e1_robust_2"].isnan()).tolist() == (rank < 7).tolist()
    assert (~found["a2_late_rise"].isnan()).tolist() == (exact > eps).tolist()
    for name in ("a1_one_step", "b1_random", "b4_decision", "b5_on_grid", "e1_robust_0.5", "g4_ce_robust"):
        assert found[name].isnan().all(), name


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_points_on_the_grid_of_stored_values_lie_in_the_ball(linear, norm):
    network, x, y, _, eps = linear
    stored = rounded(x, 16)
    assert levels_of(stored) == 16
    assert levels_of(rounded(x, 255)) == 255
    points = list(on_grid(network, stored, y, eps=eps, norm=norm, seed=0))
    assert any(bool((point != stored).any()) for point in points)
    for point in points:
        assert torch.equal(rounded(point, 16), point)
        assert (balls.size(point - stored, norm) <= eps).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_decisions_alone_break_a_linear_network_whose_logits_are_hidden(linear, norm):
    network, x, y, exact, _ = linear
    hidden = Function(network, lambda m, x, z: nn.functional.one_hot(z.argmax(1), 3).float())
    eps = 1.5 * float(exact.max()) if norm == "l2" else 0.1
    assert judge(hidden, x, y, pgd(hidden, x, y, eps=eps, norm=norm), eps=eps, norm=norm).broken.sum() < 3
    found = judge(hidden, x, y, hopskipjump(hidden, x, y, eps=eps, norm=norm), eps=eps, norm=norm)
    assert found.broken.float().mean() > 0.7
    assert not found.refused.any()


def test_an_image_on_which_the_model_meets_nan_does_not_hide_the_others(linear):
    network, x, _, _, eps = linear
    x = x[:3].clone()
    x[1, 0, 0, 0] = 0.2001  # finite exactly there, and nowhere near
    y = network(x).argmax(1)
    gap = Function(network, lambda m, x, z: torch.where(near_gap(x[:, :1, 0, 0]), torch.nan, z))
    found = measured(Subject(gap, x, y, eps, "l2", 0), None, None)
    assert list(found) == list(NUMBERS)
    met = found["v2_not_finite"] == 1
    assert met[1]
    assert not met[2]
    assert found["survivor"].isnan().tolist() == found["g1_zero_margin_gradient"].isnan().tolist() == met.tolist()


def near_gap(pixel):
    """Return whether a pixel lies in the gap, its single finite value excepted."""
    return (pixel > 0.195) & (pixel < 0.205) & (pixel != torch.tensor(0.2001))


def test_stored_adversarial_examples_are_asked_again(linear):
    network, x, y, exact, eps = linear
    far = exact > 1.2 * eps
    proposed = pgd(network, x, y, eps=eps)
    proposed[far] = (x[far] + 0.01).clamp(0, 1)
    found = measured(Subject(network, x, y, eps, "l2", 0), None, proposed)["v6_holds"]
    assert (found[far] == 0).all()
    assert (found[exact < 0.98 * eps] == 1).all()
    assert measured(Subject(network, x, y, eps, "l2", 0), None, x)["v6_holds"].isnan().all()
