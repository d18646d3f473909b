"""Every deliberately broken attack is caught by the check that should see it, and the right one passes it.

Each check is a function that raises AssertionError; each fault is a small PGD with one thing wrong.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.attacks.pgd import pgd
from bench.measuring.attack_columns import robust_columns
from tests.attacks.known import Linear, flags, size
from tests.attacks.test_closed_form import Shell, exact_distance, middle, problem


def plain_pgd(model, x, y, *, eps, norm="l2", seed=0, steps=20, fault=""):
    """A compact PGD in l2 from the clean image, with one fault; "" is right."""
    label = {"wrong label": (y + 1) % model(x).shape[1], "predicted labels": model(x).argmax(1)}.get(fault, y)
    length = 2.5 * eps / steps * (0.01 if fault == "step too small" else 1)
    point, best, best_loss = x, x, torch.full((len(x),), -torch.inf)
    for step in range(steps + 1):
        point = point.detach().requires_grad_()
        logits = model(point)
        others = logits.scatter(1, label[:, None], -torch.inf)
        loss = others.logsumexp(1) - logits.gather(1, label[:, None])[:, 0]
        better = loss.detach() > best_loss
        best = torch.where(better.view(-1, 1, 1, 1), point.detach(), best)
        best_loss = torch.where(better, loss.detach(), best_loss)
        if step == steps:
            break
        (g,) = torch.autograd.grad(loss.sum(), point)
        norms = g.flatten(1).norm(dim=1)
        norms = g.norm().expand(len(x)) if fault == "normalised over the batch" else norms
        g = g / norms.clamp_min(1e-12).view(-1, 1, 1, 1)
        point = point.detach() + (-length if fault == "sign flipped" else length) * g
        delta = point - x
        if fault != "no projection":
            delta = delta * (eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
        point = x + delta if fault == "no box" else (x + delta).clamp(0, 1)
    return point.detach() if fault == "last iterate" else best


def breaks_what_one_exact_step_breaks(attack):
    model, x, y = problem(4, 30, box=False)
    exact = exact_distance(model, x, y, "l2", box=False)
    eps = middle(exact)
    assert not flags(model, attack(model, x, y, eps=eps), y)[exact < 0.9 * eps].any()


def stays_in_the_ball(attack):
    model, x, y = problem(4, 30, box=False)
    assert (size(attack(model, x, y, eps=0.05) - x, "l2") <= 0.05 * (1 + 1e-5)).all()


def stays_in_the_box(attack):
    model, x, y = problem(4, 30, box=True)
    found = attack(model, x, y, eps=0.5)
    assert found.min() >= 0
    assert found.max() <= 1


class Uneven(nn.Module):
    """Two classes whose gradient is a million times larger for images with a bright first pixel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16))

    def forward(self, x):
        flat = x.flatten(1)
        gap = (flat - 0.5) @ self.weight + 0.1
        gap = gap * torch.where(flat[:, 0].detach() > 0.5, 1e3, 1e-3)
        return torch.stack([gap, -gap], 1)


def does_not_depend_on_the_batch(attack):
    x = torch.full((2, 1, 4, 4), 0.5)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.7, 0.3
    y = torch.tensor([0, 0])
    together = attack(Uneven(), x, y, eps=0.1)
    alone = torch.cat([attack(Uneven(), x[i : i + 1], y[i : i + 1], eps=0.1) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def keeps_the_best_point(attack):
    x, y = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    assert not flags(Shell(), attack(Shell(), x, y, eps=0.4), y).any()


def never_mends_a_misclassified_image(attack):
    model = Linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5]))
    x, y = torch.tensor([[0.45, 0.5]]).view(1, 1, 1, 2), torch.tensor([0])
    assert not flags(model, x, y).any()
    assert not flags(model, attack(model, x, y, eps=0.2), y).any()


CHECKS = (
    breaks_what_one_exact_step_breaks, stays_in_the_ball, stays_in_the_box, does_not_depend_on_the_batch,
    keeps_the_best_point, never_mends_a_misclassified_image,
)  # fmt: skip
FAULTS = {
    "step too small": breaks_what_one_exact_step_breaks,
    "sign flipped": breaks_what_one_exact_step_breaks,
    "wrong label": breaks_what_one_exact_step_breaks,
    "no projection": stays_in_the_ball,
    "no box": stays_in_the_box,
    "normalised over the batch": does_not_depend_on_the_batch,
    "last iterate": keeps_the_best_point,
    "predicted labels": never_mends_a_misclassified_image,
}


def broken(fault):
    return lambda model, x, y, **settings: plain_pgd(model, x, y, fault=fault, **settings)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_attack_is_caught(fault):
    with pytest.raises(AssertionError):
        FAULTS[fault](broken(fault))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("attack", [pgd, broken("")], ids=["ours", "compact"])
def test_a_right_attack_passes(attack, check):
    if attack is pgd and check is keeps_the_best_point:
        check(lambda *args, **settings: pgd(*args, random_start=False, losses=["ce"], **settings))
    else:
        check(attack)


@pytest.mark.parametrize("fault", ["no projection", "no box"])
def test_the_judge_gives_no_credit_for_leaving_the_rules(fault):
    model, x, y = problem(4, 30, box=fault == "no box")
    exact = exact_distance(model, x, y, "l2", box=fault == "no box")
    eps = float(exact.quantile(0.2))
    columns = robust_columns(
        model, x, y, attack=broken(fault), prefix="a", eps=[eps], norm="l2", seed=0, arguments={"steps": 3}
    )
    assert columns[f"a_{eps:g}_robust"][exact > 1.001 * eps].all()
    if fault == "no projection":
        assert columns[f"a_{eps:g}_refused"].any()


def test_the_check_against_other_libraries_sees_batch_wide_normalisation(nets, digits):
    """The fault that passed every sanity check but this one when it happened for real."""
    from bench.attacks.peers import foolbox

    _, _, x, y = digits
    x, y, model = x[:60], y[:60], nets["robust"]
    theirs = flags(model, foolbox.pgd(model, x, y, eps=0.6, steps=10, random_start=False), y)
    assert (flags(model, plain_pgd(model, x, y, eps=0.6, steps=10), y) != theirs).sum() <= 1
    batch_wide = flags(model, broken("normalised over the batch")(model, x, y, eps=0.6, steps=10), y)
    assert (batch_wide != theirs).sum() > 5
    assert F.cross_entropy(model(x), y) < 1, "the net is trained"
