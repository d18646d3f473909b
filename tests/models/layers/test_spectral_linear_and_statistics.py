"""The normalised last layer, the two sums of eq. (5), and the numbers of the training log."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from bench.models.layers import (
    CenteredSoftplus,
    LipschitzBatchNorm2d,
    SpectralNormConv2d,
    SpectralNormLinear,
    layer_statistics,
    penalty_sums,
)


def test_finalized_linear_layer_has_norm_one_and_keeps_its_bias():
    layer = SpectralNormLinear(20, 7).double()
    raw = layer.parametrizations.weight.original.detach().clone()
    layer.finalize()
    layer.eval()
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, rel=1e-12)
    torch.testing.assert_close(layer.weight, raw / torch.linalg.matrix_norm(raw, 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(layer(torch.zeros(1, 20).double())[0], layer.bias)
    assert layer.sigma_error() < 1e-12


@pytest.mark.parametrize("sizes", [(1, 1), (1, 9), (9, 1), (32, 10), (64, 10), (512, 100)])
def test_the_norm_before_any_training_step_is_one(sizes):
    for seed in range(3):
        torch.manual_seed(seed)
        layer = SpectralNormLinear(*sizes).eval()
        assert torch.linalg.matrix_norm(layer.weight.double(), 2).item() == pytest.approx(1, abs=1e-6)


def test_construction_draws_what_torch_draws_and_works_without_memory():
    torch.manual_seed(0)
    layer = SpectralNormLinear(6, 4)
    after = torch.rand(3)
    torch.manual_seed(0)
    plain = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(layer.parametrizations.weight.original, plain.parametrizations.weight.original)
    with torch.device("meta"):
        assert SpectralNormLinear(6, 4).weight.is_meta


def test_training_is_that_of_torchs_parametrisation_step_by_step():
    torch.manual_seed(0)
    ours = SpectralNormLinear(20, 7).double()
    theirs = nn.utils.parametrizations.spectral_norm(nn.Linear(20, 7).double())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 20, dtype=torch.float64)
    for _ in range(5):
        for layer in (ours, theirs):
            layer.zero_grad()
            layer(x).square().sum().backward()
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= 0.3 * parameter.grad
        for (name, got), want in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12, msg=name)
    assert ours.sigma_error() > 1e-4, "far enough from converged that the order of the iteration shows"
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-11, atol=1e-12)


def test_sigma_error_is_that_of_the_iterated_norm():
    layer = SpectralNormLinear(30, 10).double().eval()
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn(10, 30).double())
    true = torch.linalg.matrix_norm(layer.weight, 2).item()
    assert layer.sigma_error() == pytest.approx(true - 1, rel=1e-9)
    assert layer.sigma_error() > 1e-3


def test_finalized_linear_layer_is_saved_and_copied():
    layer = SpectralNormLinear(5, 3)
    layer.finalize()
    fresh = SpectralNormLinear(5, 3)
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(fresh.eval()(x), layer.eval()(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_a_pickled_linear_layer_goes_on_as_the_layer_itself(bias):
    layer, x = SpectralNormLinear(5, 3, bias), torch.randn(4, 5)
    layer.register_forward_hook(doubled)
    layer(x).sum().backward()
    state = torch.get_rng_state()
    twin = pickle.loads(pickle.dumps(layer))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(twin, SpectralNormLinear)
    for _ in range(2):  # each forward in training mode is one power iteration
        assert torch.equal(twin(x), layer(x))
    assert torch.equal(copy.copy(layer).eval()(x), layer.eval()(x))
    assert list(twin.state_dict()) == list(layer.state_dict())


def doubled(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    return 2 * output


def mixture() -> nn.Module:
    torch.manual_seed(0)
    shared = CenteredSoftplus(2.0)
    model = nn.Sequential(
        SpectralNormConv2d(1, 4, 3, padding=1, in_size=(4, 4)), LipschitzBatchNorm2d(4, 0.5), shared,
        nn.Sequential(LipschitzBatchNorm2d(4, 10.0), CenteredSoftplus(7.0), CenteredSoftplus(3.0, learn_beta=False)),
        shared, nn.Flatten(), SpectralNormLinear(64, 3),
    )  # fmt: skip
    return model


def test_sums_count_every_learnable_module_once_without_the_floor():
    model = mixture()
    beta_sum, gamma_sum = penalty_sums(model)
    assert beta_sum.item() == pytest.approx(2 + 7, rel=1e-6)
    assert gamma_sum.item() == pytest.approx(math.log(2) + math.log(10), rel=1e-6)
    beta_sum.backward()
    assert model[2].log_beta.grad.item() == pytest.approx(2, rel=1e-6)  # d exp(log β)/d log β
    gamma_sum.backward()
    assert (model[1].log_gamma.grad, model[3][0].log_gamma.grad) == (-1, 1)


def test_statistics_hold_what_there_is():
    model = mixture().eval()
    statistics = layer_statistics(model)
    assert statistics["sum_beta"] == pytest.approx(9, rel=1e-6)
    assert statistics["sum_abs_log_gamma"] == pytest.approx(math.log(20), rel=1e-6)
    assert statistics["max_sigma_error"] == max(model[0].sigma_error(), model[6].sigma_error())
    assert layer_statistics(nn.Linear(2, 2)) == {}
    assert penalty_sums(nn.ReLU()) == (None, None)
