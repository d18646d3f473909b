"""Certificates: exact for a linear model, never broken by an attack, missing where an operation is unknown."""

import pytest
import torch
from torch import nn

from bench.attacks.pgd import pgd
from bench.evaluations.certificate import certificate
from bench.numerics.model_precision import differentiable_eval


def test_a_linear_model_gets_its_exact_distance():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    x = torch.rand(20, 3, 2, 2)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    table = certificate(model, x, y)
    weight, logits = model[1].weight.detach().double(), model.double()(x.double()).detach()
    for i in range(1, 20):
        distances = [
            float((logits[i, y[i]] - logits[i, k]) / (weight[y[i]] - weight[k]).norm()) for k in range(4) if k != y[i]
        ]
        assert float(table["certified_radius"][i]) == pytest.approx(min(distances), rel=1e-6)
    assert table["certified_radius"][0] == 0  # wrong already
    assert (table["certified_radius_lipschitz"] <= table["certified_radius"]).all()
    norm = float(torch.linalg.matrix_norm(weight, 2))
    assert float(table["lipschitz_constant"][0]) == pytest.approx(norm)
    assert float(table["local_slope"][3]) == pytest.approx(norm, rel=1e-6)


def test_no_attack_breaks_an_image_inside_its_radius(model, images):
    x, _ = images
    x = 0.2 + 0.6 * x[:3]
    y = model(x).argmax(1)
    table = certificate(model, x, y)
    radius = table["certified_radius"]
    assert (radius > 0).all()
    for i in range(len(x)):
        adversarial = pgd(model, x[i : i + 1], y[i : i + 1], eps=float(radius[i]))
        assert int(model(adversarial).argmax()) == int(y[i])


def test_the_constant_exceeds_every_slope(model):
    x = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    table = certificate(model, x, torch.zeros(30, dtype=torch.long))
    assert (table["local_slope"] <= table["lipschitz_constant"]).all()
    with differentiable_eval(model, "float64") as ready:
        jacobian = torch.autograd.functional.jacobian(lambda v: ready(v.view(1, 1, 6, 6))[0], x[0].double().flatten())
    assert float(table["local_slope"][0]) == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-3)


def test_a_network_with_kinks_is_lipschitz_all_the_same(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
    table = certificate(model, *images)
    assert (table["local_slope"] <= table["lipschitz_constant"]).all()
    assert table["certificate_not_applicable"] == [""] * 6


def test_an_unknown_operation_leaves_it_missing(images):
    class Exotic(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5].exp()

    table = certificate(Exotic(), *images)
    assert table["certified_radius"].isnan().all()
    assert table["certificate_not_applicable"] == ["Exp"] * 6


def test_a_model_without_a_gradient_leaves_it_missing(images):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :5]

    table = certificate(Detached(), *images)
    assert table["certified_radius"].isnan().all()
    assert table["certificate_not_applicable"] == ["no gradient"] * 6


def test_images_do_not_influence_each_other(lcnn, images):
    x, y = images
    whole, alone = certificate(lcnn, x, y), certificate(lcnn, x[3:4], y[3:4])
    for name in ("certified_radius", "local_slope", "lipschitz_constant"):
        torch.testing.assert_close(alone[name], whole[name][3:4], rtol=1e-6, atol=0)
