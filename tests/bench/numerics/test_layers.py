"""The Hessian taken apart by activation, against dense matrices, and what breaks when it is taken apart wrongly."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from bench.models.layers import CenteredSoftplus, Softplus
from bench.numerics.autograd_graph import record_activations
from bench.numerics.derivatives import expand
from bench.numerics.lanczos import lanczos
from bench.numerics.layer_bounds import LayerwiseHessian
from bench.numerics.lipschitz import lipschitz_graph
from bench.numerics.model_precision import differentiable_eval


def take_apart(model, x, y):
    """Return the layers of a float64 copy; it stays alive through its graph."""
    with differentiable_eval(model, "float64") as ready, record_activations(ready) as calls:
        at = expand(ready, x.double(), y)
    return LayerwiseHessian.of(at, y, calls.activations)


def vectors(count, size, seed=0):
    v = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v / v.norm(dim=1, keepdim=True)


def test_the_split_is_exact(model, images):
    layers = take_apart(model, *images)
    for seed in range(3):
        u = vectors(6, 36, seed)
        form = (u * layers.at.hvp(u)).sum(1)
        shares = layers.shares(u)
        assert shares.shape == (6, len(layers.activations) + 1)
        bound = (u * layers.majorant()(u)).sum(1)
        assert ((form - shares.sum(1)).abs() <= 1e-10 * bound).all()
        assert (form.abs() <= bound * (1 + 1e-12)).all()
        assert (form.abs() < 0.99 * bound).any()


@pytest.mark.parametrize("planted", ["half", "dropped", "shifted", "no loss"])
@pytest.mark.parametrize("kind", ["lcnn", "standard"])
def test_a_wrong_split_is_caught(kind, planted, request, images, monkeypatch):
    layers = take_apart(request.getfixturevalue(kind), *images)
    u = lanczos(layers.at.hvp, vectors(6, 36), 36).top_vector
    form = (u * layers.at.hvp(u)).sum(1)
    weights = list(layers.weights)
    if planted == "half":
        weights = [0.5 * d for d in weights]
    elif planted == "dropped":
        largest = int(layers.shares(u)[:, :-1].abs().sum(0).argmax())
        weights[largest] = 0 * weights[largest]
    elif planted == "shifted":  # an index too far: the second layer's curvature for the third's
        weights[2] = weights[1].repeat(1, math.ceil(weights[2].shape[1] / weights[1].shape[1]), 1, 1)
    else:
        monkeypatch.setattr("bench.numerics.layer_bounds.softmax_product", lambda logits, y, w: 0 * w)
    wrong = dataclasses.replace(layers, weights=weights)
    assert ((form - wrong.shares(u).sum(1)).abs() > 1e-3 * form.abs()).any()
    if planted in ("half", "dropped"):
        assert (form.abs() > (u * wrong.majorant()(u)).sum(1) * 1.001).any()


def test_a_majorant_without_the_loss_is_caught_by_a_linear_model(images, monkeypatch):
    torch.manual_seed(0)
    layers = take_apart(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)), *images)
    u = vectors(6, 36)
    form = (u * layers.at.hvp(u)).sum(1)
    torch.testing.assert_close((u * layers.majorant()(u)).sum(1), form, rtol=1e-9, atol=0)
    monkeypatch.setattr("bench.numerics.layer_bounds.softmax_product", lambda logits, y, w: 0 * w)
    assert (form > (u * layers.majorant()(u)).sum(1) * 1.001).all()


def test_the_matrix_and_its_bounds_against_dense_ones(lcnn, images, dense):
    x, y = images
    layers = take_apart(lcnn, x, y)
    found = lanczos(layers.majorant(), vectors(6, 36), 36).norm
    elementwise, norms = layers.elementwise(vectors(6, 36, 1), 36)
    for i in range(2):
        truth = dense(lcnn, x[i], y[i])
        rows = [torch.zeros(6, 36, dtype=torch.float64) for _ in range(36)]
        for k in range(36):
            rows[k][i, k] = 1.0
        columns = torch.stack([layers.majorant()(v)[i] for v in rows], 1)
        assert torch.allclose(columns, columns.T, atol=1e-9)
        assert torch.linalg.eigvalsh(columns)[0] > -1e-9
        assert truth.norm(columns) == pytest.approx(float(found[i]), rel=1e-8)
        hessian = truth.hessian / float(layers.at.scale[i])
        assert truth.norm(hessian) <= float(found[i]) <= float(elementwise[i])
        assert float(norms[-1][i]) == pytest.approx(float(torch.linalg.matrix_norm(truth.jacobian, 2)), rel=1e-8)


def test_the_softmax_norm_is_the_dense_one_over_the_scale(lcnn, images):
    layers = take_apart(lcnn, *images)
    p = layers.at.logits.detach().softmax(1)
    covariance = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.linalg.eigvalsh(covariance)[:, -1] / layers.at.scale
    torch.testing.assert_close(layers.softmax_norm(), expected, rtol=1e-9, atol=0)


def test_the_data_free_bounds_hold_and_use_the_floor_of_beta(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), CenteredSoftplus(3.0), nn.Linear(8, 5))
    layers = take_apart(model, *images)
    lipschitz, curvature = layers.data_free(lipschitz_graph(layers.at.logits, layers.activations))
    first, last = (float(torch.linalg.matrix_norm(model[i].weight.detach().double(), 2)) for i in (1, 3))
    assert lipschitz == pytest.approx(first * last)
    assert curvature == pytest.approx(3.001 / 4 * last * first**2)
    norm = lanczos(layers.at.hvp, vectors(6, 36), 36).norm * layers.at.scale
    assert (norm <= lipschitz**2 / 2 + math.sqrt(2) * curvature).all()


def test_data_free_bounds_of_every_network(model, images):
    layers = take_apart(model, *images)
    lipschitz, curvature = layers.data_free(lipschitz_graph(layers.at.logits, layers.activations))
    _, norms = layers.elementwise(vectors(6, 36), 20)
    assert (norms[-1] <= lipschitz).all()
    assert (
        lanczos(layers.at.hvp, vectors(6, 36), 20).norm <= (lipschitz**2 / 2 + 2**0.5 * curvature) / layers.at.scale
    ).all()


def test_a_skip_around_an_activation_keeps_the_split_exact(images):
    # f = s0(z) − z/2 has ∂f/∂z = 0 at z = 0 but f'' = β/4: weights must come from ∂f/∂a, not from ∂f/∂z
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(36, 8), CenteredSoftplus(4.0), nn.Linear(8, 5)

        def forward(self, x):
            z = self.first(x.flatten(1))
            return self.last(self.act(z) - z / 2)

    torch.manual_seed(0)
    layers = take_apart(Skip(), *images)
    u = vectors(6, 36)
    torch.testing.assert_close(layers.shares(u).sum(1), (u * layers.at.hvp(u)).sum(1), rtol=1e-9, atol=1e-12)


def test_printed_sums_of_a_chain_by_hand(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), Softplus(3.0), nn.Linear(8, 5))
    layers = take_apart(model, *images)
    printed = layers.printed(lipschitz_graph(layers.at.logits, layers.activations))
    first, last = (float(torch.linalg.matrix_norm(model[i].weight.detach().double(), 2)) for i in (1, 3))
    assert float(printed["max"][0]) == pytest.approx(8 * 3.0 * first + 2 * first * last)
    s = (3 * (images[0].flatten(1).double() @ model[1].weight.double().T + model[1].bias.double())).sigmoid()
    slope, second = s.amax(1), (3 * s * (1 - s)).amax(1)
    expected = 8 * second * first + 2 * slope * first * last
    torch.testing.assert_close(printed["pointwise"], expected.detach(), rtol=1e-7, atol=0)
    torch.testing.assert_close(printed["lemma"], (expected - 7 * second * first).detach(), rtol=1e-7, atol=0)
