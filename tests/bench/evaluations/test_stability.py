"""Gradient stability against closed forms."""

import copy

import pytest
import torch
from torch import nn

from bench.core.errors import UsageError
from bench.evaluations.stability import COLUMNS, stability


class Logistic(nn.Module):
    """Two logits (0, −w·x): the loss at label 1 is softplus(w·x)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        u = x.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(u), -u], 1)


W = torch.tensor([3.0, -1.0, 2.0, 0.5])


def logistic_table(radius, **settings):
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y = torch.ones(5, dtype=torch.long)
    return (x.flatten(1) @ W).double(), stability(Logistic(W), x, y, radius=radius, precision="float64", **settings)


def test_the_worst_direction_of_a_linear_model_is_its_weight_vector():
    # ∇f(x + ε) = σ(u + w·ε)w, and the only curved direction is w; the loss rises along +w
    radii = [0.01, 0.1, 0.7]
    u, table = logistic_table(radii)
    for r in radii:
        change = ((u + r * W.norm()).sigmoid() - u.sigmoid()).abs() / u.sigmoid()
        torch.testing.assert_close(table[f"stability_{r:g}_worst"], change, rtol=1e-6, atol=0)
        approximation = r * (1 - u.sigmoid()) * W.norm()
        torch.testing.assert_close(table[f"stability_{r:g}_approximation"], approximation, rtol=1e-6, atol=0)


def test_the_estimate_is_the_upper_sum_of_proposition_1_over_the_radii():
    # Along +w the normalised curvature (1 − σ(u + sw·w))‖w‖ falls, so the upper sum takes left ends
    u, table = logistic_table([0.1, 0.5])

    def curvature(r):
        return (1 - (u + r * W.norm()).sigmoid()) * W.norm()

    first = 0.1 * curvature(0.0)
    torch.testing.assert_close(table["stability_0.1_estimate"], first.expm1(), rtol=1e-6, atol=0)
    second = first + 0.4 * curvature(0.1)
    torch.testing.assert_close(table["stability_0.5_estimate"], second.expm1(), rtol=1e-6, atol=0)
    assert (table["stability_0.5_worst"] <= table["stability_0.5_estimate"]).all()


def test_random_directions_have_the_exact_radius_and_the_isotropic_mean():
    # For a tiny radius the change is r·(1 − σ)·|w·ε̂|; E|w·ε̂| = ‖w‖·4/(3π) on the sphere of R⁴
    u, table = logistic_table([1e-4], draws=2000)
    expected = 1e-4 * (1 - u.sigmoid()) * W.norm() * 4 / (3 * torch.pi)
    torch.testing.assert_close(table["stability_0.0001"], expected, rtol=0.05, atol=0)
    assert (table["stability_0.0001"] <= table["stability_0.0001_worst"]).all()


def test_the_worst_change_is_near_the_estimate_on_a_smooth_network(lcnn, images):
    table = stability(lcnn, *images, draws=3)
    for r in (0.001, 0.003, 0.01, 0.03, 0.1):
        worst, estimate = table[f"stability_{r:g}_worst"], table[f"stability_{r:g}_estimate"]
        assert (worst <= estimate * (1 + 1e-3)).all()
        assert (worst > 0.8 * estimate).any()
        assert (table[f"stability_{r:g}"] <= worst).all()


def test_single_precision_agrees_with_double(lcnn, images):
    single, double = stability(lcnn, *images, draws=2), stability(lcnn, *images, draws=2, precision="float64")
    for name, values in double.items():
        torch.testing.assert_close(single[name], values, rtol=2e-2, atol=1e-6)


def test_batch_order_size_and_radius_list_do_not_matter(lcnn, images):
    x, y = images
    whole = stability(lcnn, x, y, draws=2, radius=[0.1, 0.01])
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    permuted = stability(lcnn, x[order], y[order], draws=2, radius=[0.01, 0.1, 0.01])
    alone = stability(lcnn, x[2:3], y[2:3], draws=2, radius=[0.1])
    for name, values in whole.items():
        torch.testing.assert_close(permuted[name], values[order], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(alone["stability_0.1"], whole["stability_0.1"][2:3], rtol=1e-3, atol=1e-7)
    assert not torch.equal(whole["stability_0.1"], stability(lcnn, x, y, draws=2, seed=1)["stability_0.1"])


def test_a_vanishing_gradient_is_missing_and_a_kinked_model_has_no_estimate(images):
    x, y = images

    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 5)

    flat = stability(Constant(), x, y, draws=1, radius=[0.1])
    assert all(v.isnan().all() for name, v in flat.items() if name != "stability_fast_engine")
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 5))
    table = stability(relu, x, y, draws=1, radius=[0.1])
    assert table["stability_0.1_estimate"].isnan().all()
    assert (table["stability_0.1"] > 0).all()


def test_the_model_is_left_as_found(model, images):
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    stability(model, *images, draws=1, radius=[0.1])
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("radius", [[], [0.0], [-0.1, 0.1], [float("inf")]])
def test_wrong_radii_are_refused(lcnn, images, radius):
    with pytest.raises(UsageError, match="stability radius: expected positive numbers"):
        stability(lcnn, *images, radius=radius)
    with pytest.raises(UsageError, match="draws: expected at least 1, got 0"):
        stability(lcnn, *images, draws=0)


class Bend(nn.Module):
    """Two logits whose difference becomes six times as steep between two radii, and is a line at either."""

    def forward(self, x):
        s = x.flatten(1).sum(1)
        z = s + 5 * torch.nn.functional.softplus(200 * (s - 2.05), threshold=80.0) / 200
        return torch.stack([z, torch.zeros_like(s)], 1)


def test_no_column_that_is_called_a_bound_is_exceeded_by_what_was_measured(model, images):
    """On radii that miss the bend the estimate is exceeded: it must not be called a bound."""
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    table = stability(Bend().double(), x, torch.ones(1, dtype=torch.long), radius=[0.08], precision="float64")
    assert (table["stability_0.08_worst"] > 2 * table["stability_0.08_estimate"]).all()
    for found in (table, stability(model, *images, draws=1)):
        for bound in (name for name in found if name.endswith("_bound")):
            assert not (found[bound.replace("_bound", "_worst")] > found[bound] * (1 + 1e-6)).any()
    assert not [name for name, column in COLUMNS.items() if column.companion == "bound"]
