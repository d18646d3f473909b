"""Adversarial training's inner attack against closed forms, and that it disturbs nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from bench.core.errors import UsageError
from bench.models.defenses.adversarial_training import adversarial_training, ascend, ascend_as_released, loss
from bench.models.defenses.lcnn import lcnn

D = 4 * 4


def linear(dtype=torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(D, 2)).to(dtype)


def images(n: int = 64, dtype=torch.float64) -> torch.Tensor:
    return 0.4 + 0.2 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def along(model: nn.Sequential, shift: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the part of each shift along the direction that raises the loss of a linear two-class model."""
    w = model[1].weight
    ascent = torch.stack([w[1 - label] - w[label] for label in y])
    return (shift.flatten(1) * ascent).sum(1) / ascent.norm(dim=1)


def test_three_steps_reach_the_optimum_of_a_linear_model():
    model, x, y = linear(), images(), torch.arange(64) % 2
    shift = ascend(model, x, y, eps=0.1, steps=3, step_size=2.5 * 0.1 / 3) - x
    assert shift.flatten(1).norm(dim=1).max() <= 0.1 * (1 + 1e-12)
    assert along(model, shift, y).min() > 0.9 * 0.1
    assert along(model, shift, y).mean() > 0.95 * 0.1
    shift = ascend(model, x, y, eps=0.1, steps=60, step_size=0.02) - x
    torch.testing.assert_close(along(model, shift, y), torch.full((64,), 0.1).double(), rtol=1e-3, atol=0)


def test_start_is_uniform_in_the_ball():
    model, x = linear(), images(4000)
    torch.manual_seed(3)
    shift = ascend(model, x, torch.zeros(4000, dtype=torch.long), eps=0.1, steps=0, step_size=1.0) - x
    fractions = (shift.flatten(1).norm(dim=1) / 0.1) ** D  # uniform on [0, 1] for a uniform point of the ball
    assert fractions.max() <= 1 + 1e-9
    assert abs(fractions.mean().item() - 0.5) < 5 / math.sqrt(12 * 4000)
    assert shift.mean(0).abs().max() < 0.003


def test_points_stay_in_the_box_and_start_again_where_there_is_no_gradient():
    flat = linear()
    with torch.no_grad():
        flat[1].weight.zero_()
    x = torch.zeros(16, 1, 4, 4, dtype=torch.float64)
    point = ascend(flat, x, torch.zeros(16, dtype=torch.long), eps=0.5, steps=3, step_size=0.4)
    assert torch.isfinite(point).all()
    assert point.min() >= 0
    point = ascend(linear(), x + 1, torch.zeros(16, dtype=torch.long), eps=0.5, steps=3, step_size=0.4)
    assert point.max() <= 1
    assert (point - x - 1).flatten(1).norm(dim=1).max() <= 0.5 + 1e-12


def test_linf_steps_reach_the_corner_of_the_cube_and_start_uniform():
    model, x, y = linear(), images(), torch.arange(64) % 2
    point = ascend(model, x, y, eps=0.05, steps=3, step_size=2.5 * 0.05 / 3, norm="linf")
    w = model[1].weight
    corner = torch.stack([0.05 * (w[1 - label] - w[label]).sign() for label in y]).view_as(x)
    torch.testing.assert_close(point, x + corner, rtol=0, atol=1e-12)
    start = ascend(
        model, images(4000), torch.zeros(4000, dtype=torch.long), eps=0.05, steps=0, step_size=1.0, norm="linf"
    )
    shift = (start - images(4000)) / 0.05
    assert shift.abs().max() <= 1 + 1e-9
    assert shift.square().mean().item() == pytest.approx(1 / 3, abs=0.005)
    at_bound = ascend(model, 0 * x, y, eps=0.05, steps=3, step_size=0.05, norm="linf")
    assert at_bound.min() == 0


def test_the_released_attack_is_refused_in_another_norm():
    with pytest.raises(UsageError, match="expected norm 'l2' with released=true, got 'linf'"):
        adversarial_training(3, (1, 8, 8), "convnet-w4", released=True, norm="linf")


def test_released_attack_uses_a_third_of_the_budget():
    model, x = linear(), images(256)
    y = model(x).argmax(1)
    torch.manual_seed(0)
    shift = ascend_as_released(model, x, eps=0.1, steps=3) - x
    torch.testing.assert_close(shift.flatten(1).norm(dim=1).max(), torch.tensor(0.1).double())
    # In high dimension the mean is tanh(0.3) = 0.291 of eps; in 16 the start's own part scatters around it.
    assert along(model, shift, y).mean().item() / 0.1 == pytest.approx(math.tanh(0.3), abs=0.06)


def test_released_attack_leaves_the_box():
    x = torch.zeros(8, 1, 4, 4, dtype=torch.float64)
    assert ascend_as_released(linear(), x, eps=0.1, steps=3).min() < 0


@pytest.mark.parametrize("released", [False, True])
def test_objective_is_the_cross_entropy_at_the_point_by_hand(released):
    # One pixel and a budget that the steps exhaust: the worst point is x ± eps, known without any search.
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[3.0], [-1.0]]))
        model[1].bias.copy_(torch.tensor([-1.0, 0.5]))
    x, y = torch.tensor([0.3, 0.6, 0.7]).double().view(3, 1, 1, 1), torch.tensor([0, 1, 0])
    # Released semantics attack the prediction: 3x − 1 > 0.5 − x for x > 0.375, so class 1 for the first point.
    attacked = torch.tensor([1, 0, 0]) if released else y
    worst = x.flatten() + 0.1 * torch.where(attacked == 0, -1.0, 1.0).double()
    logits = torch.stack([3 * worst - 1, 0.5 - worst], 1)
    want = (logits.logsumexp(1) - logits[torch.arange(3), y]).mean()
    terms = loss(model, x, y, eps=0.1, steps=40, step_size=0.1, released=released, norm="l2")
    got = terms["adversarial_cross_entropy"]
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    gradient = torch.autograd.grad(got, model[1].weight)[0]
    q = logits.softmax(1) - torch.eye(2, dtype=torch.float64)[y]
    torch.testing.assert_close(gradient, (q * worst[:, None]).mean(0)[:, None], rtol=1e-9, atol=1e-12)


def test_attack_in_eval_mode_disturbs_nothing():
    torch.manual_seed(0)
    model = lcnn(3, (1, 8, 8), "convnet-w4")
    model.features[0][1].eval()  # a module that someone froze stays frozen
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    ascend(model, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), eps=0.1, steps=2, step_size=0.1)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_model_gets_its_mode_back_after_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        ascend(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), eps=0.1, steps=1, step_size=0.1)
    assert model.training
