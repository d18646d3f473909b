"""The Lipschitz constant of the Jacobian along the graph, and the radius that follows from it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.core.registry import defenses
from bench.evaluations.certificate import certificate
from bench.models.layers import CenteredSoftplus
from bench.numerics import anchors
from bench.numerics.autograd_graph import record_activations
from bench.numerics.lipschitz import lipschitz_graph

BETA = 3.0


def jacobian_constant(model: nn.Module, x: torch.Tensor) -> float:
    model.requires_grad_(False)
    with record_activations(model) as calls:
        logits = model(x.requires_grad_())
    graph = lipschitz_graph(logits, calls.activations)
    return graph.jacobian_from_input()[graph.order[-1]]


def unit(weight: float) -> nn.Sequential:
    """Return x ↦ s0(w·x) of one pixel: its second derivative at 0 is w²·β/4."""
    first = nn.Linear(1, 1, bias=False)
    nn.init.constant_(first.weight, weight)
    return nn.Sequential(nn.Flatten(), first, CenteredSoftplus(BETA, learn_beta=False)).double()


def test_one_unit_attains_its_constant():
    x, h = torch.zeros(1, 1, 1, 1, dtype=torch.float64), 1e-4
    model = unit(2.0)
    constant = jacobian_constant(model, x)
    points = torch.tensor([-h, h], dtype=torch.float64).view(2, 1, 1, 1).requires_grad_()
    slopes = torch.autograd.grad(model(points).sum(), points)[0].flatten()
    attained = float((slopes[1] - slopes[0]) / (2 * h))
    assert attained <= constant * (1 + 1e-9)
    assert attained == pytest.approx(constant, rel=2e-3)  # β's floor of 1e-3; half of it would be violated
    assert constant == pytest.approx(4 * BETA / 4, rel=1e-3)


def test_two_layers_follow_the_recursion_by_hand():
    model = nn.Sequential(*unit(2.0), *list(unit(0.5))[1:])
    beta = float(model[2].beta)
    first = beta / 4 * 2**2
    assert jacobian_constant(model, torch.zeros(1, 1, 1, 1).double()) == pytest.approx(
        0.5 * first + beta / 4 * (0.5 * 2) ** 2
    )


@pytest.mark.parametrize("backbone", ["convnet-w4", "resnet18-w2"])
def test_no_pair_of_jacobians_differs_by_more(backbone):
    torch.manual_seed(0)
    model = defenses.get("cayley").function(3, (1, 8, 8), backbone, activation="softplus").double().eval()
    a = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    constant = jacobian_constant(model, a[:1].clone())
    b = a + 0.05 * torch.randn_like(a)
    jacobians = [
        torch.autograd.functional.jacobian(lambda x: model(x[None])[0], x).flatten(1) for x in torch.cat([a, b])
    ]
    for i in range(6):
        change = torch.linalg.matrix_norm(jacobians[i] - jacobians[i + 6], 2)
        assert 0 < change <= constant * (a[i] - b[i]).norm()


def test_kinks_have_no_constant_and_no_radius():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x = torch.rand(2, 1, 2, 2)
    assert math.isinf(jacobian_constant(model, x[:1].double()))
    found = certificate(model.float(), x, torch.tensor([0, 1]))
    assert (found["certified_radius_curvature"] == 0).all()
    assert found["jacobian_lipschitz"].isnan().all()  # missing, as a stored column may not be infinite


def test_the_larger_radius_counts_and_no_point_inside_changes_the_class():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), CenteredSoftplus(0.5, learn_beta=False), nn.Linear(8, 3))
    x = torch.rand(40, 1, 2, 2)
    y = model(x).argmax(1).detach()
    found = certificate(model, x, y)
    curved, best = found["certified_radius_curvature"], found["certified_radius"]
    assert (best >= curved).all()
    assert (curved > found["certified_radius_lipschitz"]).any()  # what it adds
    directions = torch.randn(200, 1, 1, 2, 2)
    directions = directions / directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    moved = x + directions * (0.999 * best.float()).view(-1, 1, 1, 1)
    assert (model(moved.flatten(0, 1)).argmax(1).view(200, 40) == y).all()


def test_slopes_at_images_are_the_largest_rows_of_the_jacobian_and_never_above_what_norms_compose(monkeypatch):
    torch.manual_seed(0)
    model = defenses.get("lcnn").function(3, (1, 6, 6), "convnet-w4").double().eval().requires_grad_(False)
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64).requires_grad_()
    with record_activations(model) as calls:
        logits = model(x)
    graph, found = lipschitz_graph(logits, calls.activations), []
    for exact in (anchors.EXACT, 0):
        monkeypatch.setattr(anchors, "EXACT", exact)
        found.append(anchors.slopes_at_images(graph, calls.activations, x))
    gains = graph.from_input()
    for i, (rows, composed) in enumerate(zip(*found, strict=True)):
        for node, activation in zip(graph.activation_outputs(), calls.activations, strict=True):
            assert 0 < rows[node] <= composed[node] * (1 + 1e-12) <= gains[activation.source] * (1 + 1e-9)
            rest = [torch.autograd.grad(z, x, retain_graph=True)[0][i].norm() for z in activation.before[i].flatten()]
            assert rows[node] == pytest.approx(float(max(rest)), rel=1e-9)


@pytest.mark.parametrize("exact", [anchors.EXACT, 0])
def test_anchored_constants_are_smaller_and_no_jacobian_differs_by_more(exact, monkeypatch):
    monkeypatch.setattr(anchors, "EXACT", exact)
    torch.manual_seed(0)
    model = defenses.get("lcnn").function(3, (1, 6, 6), "convnet-w4").eval()
    x = torch.rand(4, 1, 6, 6)
    found = certificate(model, x, model(x).argmax(1).detach())
    anchored = found["jacobian_lipschitz_anchored"]
    assert (anchored <= found["jacobian_lipschitz"] * (1 + 1e-12)).all()
    if exact:
        assert (anchored < 0.5 * found["jacobian_lipschitz"]).all()
    double = model.double()
    jacobian = lambda v: torch.autograd.functional.jacobian(lambda u: double(u[None])[0], v).flatten(1)  # noqa: E731
    for i in range(4):
        here = jacobian(x[i].double())
        for size in (0.01, 0.3, 3.0):
            step = torch.randn(1, 6, 6, dtype=torch.float64)
            step = size * step / step.norm()
            change = torch.linalg.matrix_norm(jacobian(x[i].double() + step) - here, 2)
            assert change <= anchored[i] * size


def test_the_anchored_radius_is_the_larger_one(monkeypatch):
    torch.manual_seed(0)
    model = defenses.get("cayley").function(3, (1, 6, 6), "convnet-w4", activation="softplus").eval()
    x = torch.rand(8, 1, 6, 6)
    y = model(x).argmax(1).detach()
    anchored = certificate(model, x, y)["certified_radius_curvature"]
    monkeypatch.setattr("bench.evaluations.certificate.slopes_at_images", lambda graph, activations, x: [{}] * len(x))
    assert (anchored > certificate(model, x, y)["certified_radius_curvature"]).all()
