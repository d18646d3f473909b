"""The written-out double backward of convolutions against the library's, to third order, and only where it is meant."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.layers import DoubleBackwardConv2d, double_backward_conv

GEOMETRIES = [
    {"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2, "padding": (0, 1)}, {"stride": (1, 2)},
]  # fmt: skip


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(double_backward_conv, "MIN_INPUT_NUMEL", 0)


def arguments(groups: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(3, 4, 5, 6, dtype=dtype).requires_grad_(),
        torch.randn(2, 4 // groups, 3, 3, dtype=dtype).requires_grad_(),
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_first_and_second_derivatives_numerically(geometry):
    def convolve(x, w):
        with DoubleBackwardConv2d():
            return F.conv2d(x, w, **geometry)

    x, w = arguments(geometry.get("groups", 1))
    assert torch.equal(convolve(x, w), F.conv2d(x, w, **geometry))
    assert type(convolve(x, w).grad_fn).__name__ == "_Conv2dBackward"
    assert torch.autograd.gradcheck(convolve, (x, w))
    assert torch.autograd.gradgradcheck(convolve, (x, w))


def test_third_derivative_numerically():
    def gradients(x, w):
        with DoubleBackwardConv2d():
            y = F.conv2d(x, w, padding=1)
        return torch.autograd.grad((y**3).sum(), (x, w), create_graph=True)

    torch.manual_seed(0)
    x, w = torch.randn(2, 2, 3, 3).double().requires_grad_(), torch.randn(2, 2, 3, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(gradients, (x, w))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_gradient_penalty_has_the_librarys_gradients(geometry, layout):
    found = []
    for ours in (True, False):
        x, w = (
            t.detach().contiguous(memory_format=layout).requires_grad_() for t in arguments(geometry.get("groups", 1))
        )
        if ours:
            with DoubleBackwardConv2d():
                y = F.conv2d(x, w, **geometry)
        else:
            y = F.conv2d(x, w, **geometry)
        (gradient,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        (y.square().mean() + gradient.square().sum()).backward()
        found.append((y, gradient, x.grad, w.grad))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_an_input_gradient_makes_no_weight_gradients(monkeypatch):
    wanted, plain = [], double_backward_conv._gradients

    def watched(grad, x, weight, geometry, on_x, on_weight):
        wanted.append((on_x, on_weight))
        return plain(grad, x, weight, geometry, on_x, on_weight)

    monkeypatch.setattr(double_backward_conv, "_gradients", watched)
    x, w = arguments()
    with DoubleBackwardConv2d():
        y = F.conv2d(x, w)
    (gradient,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
    assert wanted == [(True, False)]
    torch.autograd.grad(gradient.square().sum(), w)
    assert len(wanted) > 1
    assert not any(on_x for on_x, _ in wanted[1:])


def test_other_calls_are_left_alone():
    x, w = arguments()
    with DoubleBackwardConv2d():
        calls = [
            F.conv2d(x.detach(), w),
            F.conv2d(x, w, torch.zeros(2).double()),
            F.conv2d(x, w, padding="same"),
            F.conv2d(x[0], w),
        ]
        with torch.no_grad():
            assert F.conv2d(x, w).grad_fn is None
    assert all(type(y.grad_fn).__name__ != "_Conv2dBackward" for y in calls)
    assert type(F.conv2d(x, w).grad_fn).__name__ != "_Conv2dBackward"


def test_small_images_are_left_to_the_library(monkeypatch):
    monkeypatch.setattr(double_backward_conv, "MIN_INPUT_NUMEL", 361)
    x, w = arguments()
    with DoubleBackwardConv2d():
        small, large = F.conv2d(x, w), F.conv2d(torch.cat([x, x]), w)
    assert type(small.grad_fn).__name__ != "_Conv2dBackward"
    assert type(large.grad_fn).__name__ == "_Conv2dBackward"


def test_torch_func_takes_the_librarys():
    layer = nn.Conv2d(4, 2, 3, bias=False).double()
    x, _ = arguments()

    def total(x):
        with DoubleBackwardConv2d():
            return layer(x).tanh().sum()

    torch.testing.assert_close(torch.func.grad(total)(x.detach()), torch.autograd.grad(total(x), x)[0])


def test_under_autocast_it_computes_in_the_same_precision():
    x, w = arguments(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.conv2d(x, w)
        with DoubleBackwardConv2d():
            y = F.conv2d(x, w)
    assert y.dtype == plain.dtype == torch.bfloat16
    assert torch.equal(y, plain)
    (gradient,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
    assert gradient.dtype == torch.float32
    gradient.square().sum().backward()
    assert w.grad is not None
    assert torch.isfinite(w.grad).all()
