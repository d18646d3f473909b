"""Batch norm with its written-out double backward against the library's, to third order and in every setting."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bench.models.layers import BatchNorm2d, LipschitzBatchNorm2d
from bench.models.layers.batch_norm import batch_norm_affine, scaled_batch_norm


def function(eps: float = 1e-2):
    """Return training-mode batch norm as a pure function of x (B, 3, H, W) and weight (3,)."""
    layer = nn.BatchNorm2d(3, affine=False, eps=eps).double()
    return lambda x, weight: scaled_batch_norm(copy.deepcopy(layer), x, weight)


def arguments() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 3, 2, 2).double().requires_grad_(), torch.rand(3).double().requires_grad_()


def test_first_and_second_derivatives_numerically():
    assert torch.autograd.gradcheck(function(), arguments())
    assert torch.autograd.gradgradcheck(function(), arguments())


def test_third_derivative_numerically():
    def gradients(x, weight):
        return torch.autograd.grad((function()(x, weight) ** 3).sum(), (x, weight), create_graph=True)

    assert torch.autograd.gradgradcheck(gradients, arguments())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_double_backward_equals_the_librarys(dtype, size, layout):
    torch.manual_seed(0)
    base = torch.randn(16, 6, size, size, dtype=dtype) * 2 + 1
    weight, target = torch.rand(6, dtype=dtype) + 0.5, torch.randn(16, 6, size, size, dtype=dtype)
    results = []
    for ours in (True, False):
        x, w = base.clone().contiguous(memory_format=layout).requires_grad_(), weight.clone().requires_grad_()
        layer = nn.BatchNorm2d(6, affine=False).to(dtype)
        y = scaled_batch_norm(layer, x, w) if ours else nn.functional.batch_norm(x, None, None, w, training=True)
        first = torch.autograd.grad((torch.tanh(y) * target).sum(), (x, w), create_graph=True)
        second = torch.autograd.grad((first[0] * target).sum() + first[1].sum(), (x, w))
        results.append([y, *first, *second])
    for got, want in zip(*results, strict=True):
        scale = want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=50 * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize("training", [True, False])
def test_layer_equals_the_library_with_its_buffers(training):
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(3).train(training), nn.BatchNorm2d(3, affine=False).train(training)
    for _ in range(3):
        x = torch.randn(4, 3, 5, 5) + 2
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    assert not list(ours.parameters())
    with pytest.raises(ValueError, match="expected 4D input"):
        ours(torch.zeros(2, 3))


@pytest.mark.parametrize("layer", [BatchNorm2d(3), LipschitzBatchNorm2d(3)])
def test_batched_and_functional_gradients_in_training_mode(layer):
    layer = layer.double()
    x = torch.randn(4, 3, 2, 2).double()

    def pure(x):
        return copy.deepcopy(layer)(x).tanh()

    one_by_one = torch.autograd.functional.jacobian(pure, x)
    torch.testing.assert_close(torch.autograd.functional.jacobian(pure, x, vectorize=True), one_by_one)
    hessian = torch.autograd.functional.hessian(lambda x: pure(x).square().sum(), x)
    torch.testing.assert_close(
        torch.autograd.functional.hessian(lambda x: pure(x).square().sum(), x, vectorize=True), hessian
    )
    image = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(pure(image).square().sum(), image)
    torch.testing.assert_close(torch.func.grad(lambda x: pure(x).square().sum())(x), want)


@pytest.mark.parametrize("with_weight", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_affine_map_is_batch_norm_in_eval_mode(with_weight, with_bias):
    torch.manual_seed(0)
    mean, var, weight, bias = (torch.rand(3).double() for _ in range(4))
    weight, bias = weight if with_weight else None, bias if with_bias else None
    x = torch.randn(4, 3, 2, 2).double()
    scale, shift = batch_norm_affine(mean, var, 1e-2, weight, bias)
    want = nn.functional.batch_norm(x, mean, var, weight, bias, False, 0.1, 1e-2)
    torch.testing.assert_close(x * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1), want, rtol=1e-12, atol=1e-12)
