"""The bounds evaluation as a whole: holds on real layers, is missing where it must be, and catches planted errors."""

import copy
import math

import pytest
import torch
from torch import nn

from bench.core.errors import BenchError, UsageError
from bench.evaluations.bounds import bounds
from bench.numerics.bounds import segment_checks
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.inequalities import Inequality
from bench.numerics.layer_bounds import LayerwiseHessian

SETTINGS = {"radius": [0.01, 0.1]}


def test_everything_that_must_hold_holds(model, images):
    table = bounds(model, *images, **SETTINGS)
    assert table["bound_violation"] == [""] * 6
    assert (table["bound_violations"] == 0).all()
    assert (table["bounds_undecided"] == 0).all()
    assert table["bounds_applicable"].all()
    assert (table["fundamental_theorem_error"] < 0.02).all()
    for name, values in table.items():
        if name.startswith("tightness"):
            assert (values >= 0).all(), name
            assert (values <= 1 + 1e-6).all(), name
    shares = sum(v for k, v in table.items() if k.startswith("curvature_share"))
    torch.testing.assert_close(shares, torch.ones_like(shares))


def test_smooth_networks_are_tight_on_nine_nodes_along_the_top_eigenvector(lcnn, images):
    table = bounds(lcnn, *images, **SETTINGS)
    assert (table["bounds_nodes"] <= 33).all()
    assert (table["bounds_unsettled"] == 0).all()
    assert (table["tightness_gradient_0.01_worst"] > 0.9).all()  # so a constant 10 % too small would be caught
    assert (table["ratio_quadratic_gradient_0.1_worst"] > 1).any()  # the approximation is no bound


@pytest.mark.parametrize("planted", ["curvature", "layer", "softmax", "activation", "lipschitz"])
def test_planted_errors_are_counted(lcnn, images, monkeypatch, planted):
    if planted == "curvature":  # δ × 0.5
        whole = segment_checks.loss_to_second_order

        def half(*arguments):
            loss, gradient, product = whole(*arguments)
            return loss, gradient, 0.5 * product

        monkeypatch.setattr(segment_checks, "loss_to_second_order", half)
        monkeypatch.setattr("bench.numerics.segments.QUADRATURE", 10.0)
        word = "gradient_integral"
    elif planted == "layer":
        whole = LayerwiseHessian.of

        def dropped(*arguments):
            layers = whole(*arguments)
            layers.weights[1].mul_(0.0)
            return layers

        monkeypatch.setattr(LayerwiseHessian, "of", dropped)
        word = "split by layer"
    elif planted == "softmax":
        monkeypatch.setattr(LayerwiseHessian, "softmax_norm", lambda self: torch.full_like(self.at.scale, 10.0))
        word = "‖H_z‖ ≤"
    elif planted == "activation":
        whole = LayerwiseHessian.of

        def bent(*arguments):
            layers = whole(*arguments)
            layers.second_derivatives[0].add_(0.1)
            return layers

        monkeypatch.setattr(LayerwiseHessian, "of", bent)
        word = "activation: s''"
    else:
        monkeypatch.setattr(LayerwiseHessian, "data_free", lambda self, constants: (1e-6, 1e-6))
        word = "‖J‖ ≤ L"
    table = bounds(lcnn, *images, **SETTINGS)
    assert (table["bound_violations"] >= 1).any()
    found = next(words for words in table["bound_violation"] if words)
    assert word in found
    assert " > " in found
    assert "tolerance" in found


def test_a_violation_names_radius_and_direction(lcnn, images, monkeypatch):
    monkeypatch.setattr("bench.numerics.inequalities.phi", lambda z: 0.0 * z)
    table = bounds(lcnn, *images, **SETTINGS)
    assert table["bound_violation"][0].startswith("loss_supremum (ε0 = 0) at radius 0.01: ")
    assert (table["bound_violations"] >= 8).all()  # 4 segments, two ε0, and what else uses φ


def test_a_failure_on_a_moving_grid_is_undecided_not_a_violation():
    claim = Inequality(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([1.0, 1.0, 1.0]), torch.zeros(3))
    check = BoundCheck.empty(torch.zeros(2, dtype=torch.long))
    check.record("claim", torch.tensor([0, 1, 1]), claim, torch.tensor([True, False, True]))
    assert check.violations.tolist() == [1, 0]
    assert check.undecided.tolist() == [0, 1]
    assert check.first_violation[0].startswith("claim: 2 > 1")
    assert check.first_violation[1] == ""


def test_a_right_side_that_is_not_a_number_says_nothing():
    claim = Inequality(torch.tensor([2.0]), torch.tensor([math.nan]), torch.zeros(1))
    assert not bool(claim.violated)


@pytest.mark.parametrize("nonsmooth", [nn.ReLU(), nn.MaxPool2d(2)])
def test_models_with_nonsmooth_operations_are_not_assessable(nonsmooth, images):
    torch.manual_seed(0)
    width = 9 if isinstance(nonsmooth, nn.MaxPool2d) else 36
    table = bounds(nn.Sequential(nonsmooth, nn.Flatten(), nn.Linear(width, 5)), *images)
    assert table["bound_violations"].isnan().all()
    assert table["bounds_undecided"].isnan().all()
    assert not table["bounds_applicable"].any()
    assert table["bounds_not_applicable"][0] in ("Relu", "MaxPool2DWithIndices")


def test_models_without_a_gradient_are_not_assessable(images):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)[:, :5]

    table = bounds(Detached(), *images)
    assert table["bound_violations"].isnan().all()
    assert table["bounds_not_applicable"] == ["no gradient"] * 6


@pytest.mark.parametrize("where", ["output", "constant"])
def test_a_model_that_drops_to_single_precision_is_refused(images, where):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.constant = nn.Linear(36, 5), torch.ones(36, 36)

        def forward(self, x):
            x = x.flatten(1)
            return self.fc(x).float() if where == "output" else self.fc(x @ self.constant)

    with pytest.raises(BenchError, match=r"expected torch.float64 throughout"):
        bounds(Cast(), *images)


def test_a_nonsmooth_hidden_from_the_graph_shows_in_the_self_check(images):
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * (x > 0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(36, 200), nn.Linear(200, 5)

        def forward(self, x):
            return self.last(Hidden.apply(self.first(x.flatten(1))))

    table = bounds(Net(), *images, radius=[1.0], max_nodes=33)
    assert (table["bounds_undecided"] > 0).all()
    assert (table["bounds_unsettled"] > 0).all()


def test_an_unknown_curved_layer_keeps_the_segments_and_drops_the_layer_bound(images):
    class Exotic(nn.Module):
        def forward(self, x):
            return torch.sin(3 * x)

    torch.manual_seed(0)
    table = bounds(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), Exotic(), nn.Linear(8, 5)), *images, **SETTINGS)
    assert (table["bound_violations"] == 0).all()
    assert "tightness_softmax" in table
    assert "tightness_layer" not in table


def test_batch_order_and_size_do_not_matter(lcnn, images):
    x, y = images
    whole = bounds(lcnn, x, y, **SETTINGS)
    order = torch.tensor([3, 1, 0])
    part = bounds(lcnn, x[order], y[order], **SETTINGS)
    for name, values in part.items():
        if isinstance(values, torch.Tensor) and values.is_floating_point():
            torch.testing.assert_close(values, whole[name][order], rtol=1e-6, atol=1e-9)


def test_the_model_is_left_as_found(model, images):
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    bounds(model, images[0][:1], images[1][:1], radius=[0.01])
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not any(m._forward_hooks for m in model.modules())


def test_wrong_radii_are_refused(lcnn, images):
    with pytest.raises(UsageError, match="bounds radius: expected positive numbers"):
        bounds(lcnn, *images, radius=[-1.0])
