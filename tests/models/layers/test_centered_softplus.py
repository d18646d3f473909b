"""Centered softplus against closed forms in extended precision, in both dtypes, and under every transformation."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from bench.models.layers import CenteredSoftplus, Softplus, centered_softplus
from bench.models.layers.centered_softplus import KERNEL_FROM, STEEP, softplus, softplus_derivatives

BETAS = [1e-3, 1e-2, 0.3, 1.0, 5.0, 100.0, 1e3]
DTYPES = [torch.float32, torch.float64]


def points(dtype: torch.dtype) -> torch.Tensor:
    """Return |x| from 1e-8 to 1e3 on both sides, and 0."""
    side = torch.logspace(-8, 3, 300, dtype=torch.float64)
    return torch.cat([-side.flip(0), torch.zeros(1, dtype=torch.float64), side]).to(dtype)


def exact(x: torch.Tensor, beta: torch.Tensor) -> np.ndarray:
    """Return log((1 + e^{βx})/2)/β in extended precision."""
    x, beta = x.numpy().astype(np.longdouble), np.longdouble(beta.item())
    return np.maximum(x, 0) + np.log1p(np.expm1(-np.abs(beta * x)) / 2) / beta


def derivatives(x: torch.Tensor, beta: torch.Tensor, order: int) -> list[torch.Tensor]:
    """Return s0 and its first `order` derivatives in x, by repeated autograd."""
    x = x.clone().requires_grad_()
    found = [centered_softplus(x, beta)]
    for _ in range(order):
        found.append(torch.autograd.grad(found[-1].sum(), x, create_graph=True)[0])
    return [f.detach() for f in found]


def absolute(beta: float, dtype: torch.dtype) -> float:
    """Return the absolute error that a value may have beside a few units in the last place."""
    return 1e-7 / beta if dtype == torch.float32 and KERNEL_FROM <= beta < STEEP else 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", BETAS)
def test_value_has_a_relative_error_of_a_few_units_in_the_last_place(beta, dtype):
    x, slope = points(dtype), torch.tensor(beta, dtype=dtype)
    np.testing.assert_allclose(
        centered_softplus(x, slope).double().numpy(),
        exact(x, slope).astype(float),
        rtol=4 * torch.finfo(dtype).eps,
        atol=absolute(beta, dtype),
    )


IMAGES = {
    "dense": torch.randn(3, 4, 5, 6),
    "channels last": torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
    "single pixels": torch.randn(3, 4, 1, 1).to(memory_format=torch.channels_last),
    "a part": torch.randn(3, 8, 5, 9)[:, ::2, :, 3:],
    "repeated": torch.randn(1, 4, 1, 6).expand(3, 4, 5, 6),
    "vectors": torch.randn(7, 5),
    "none": torch.randn(0, 4, 5, 6),
    "far": torch.randn(3, 4, 5, 6) * 1e4,
    "infinite": torch.tensor([math.inf, -math.inf, 0.0, 3e36, -3e36]),
}


@pytest.mark.parametrize("beta", [1.0, 5.0, 99.0])
@pytest.mark.parametrize("layout", IMAGES)
def test_the_kernel_of_float32_agrees_with_float64_in_every_layout(layout, beta):
    x = IMAGES[layout].detach().requires_grad_()
    slope = torch.tensor(beta, requires_grad=True)
    y = centered_softplus(x, slope)
    assert y.grad_fn.name() == "_KernelCenteredSoftplusBackward"
    twins = x.detach().double().requires_grad_(), slope.detach().double().requires_grad_()
    want = centered_softplus(*twins)
    torch.testing.assert_close(y.double(), want, rtol=4e-7, atol=1e-7 / beta)
    weight = torch.randn(y.shape)
    got, meant = torch.autograd.grad(y, (x, slope), weight), torch.autograd.grad(want, twins, weight.double())
    torch.testing.assert_close(got[0].double(), meant[0], rtol=1e-6, atol=1e-6)
    if layout != "infinite":  # there ∂s0/∂β is ∞ − ∞
        size = float((weight.double() * x.detach()).abs().sum()) / beta + float(weight.abs().sum()) / beta**2
        assert abs(float(got[1]) - float(meant[1])) <= 1e-6 * size


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_second_derivatives_through_the_kernel_are_those_of_float64(layout):
    given = torch.randn(3, 4, 5, 6).to(memory_format=layout), torch.tensor(5.0), torch.randn(3, 4, 5, 6)

    def second(dtype: torch.dtype) -> list[torch.Tensor]:
        x, beta, weight = (t.detach().to(dtype).requires_grad_() for t in given)
        first = torch.autograd.grad(centered_softplus(x, beta), (x, beta), weight, create_graph=True)
        total = first[0].square().sum() + first[1].square()
        return [g.double() for g in torch.autograd.grad(total, (x, beta, weight))]

    for got, want in zip(second(torch.float32), second(torch.float64), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_batch_of_vectors_at_once_through_the_kernel():
    x, beta = torch.randn(6, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    y, several = centered_softplus(x, beta), torch.randn(3, 6)
    together = torch.autograd.grad(y, (x, beta), several, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(several):
        alone = torch.autograd.grad(y, (x, beta), one, retain_graph=True)
        for got, want in zip(together, alone, strict=True):
            torch.testing.assert_close(got[i], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "device", "beta"),
    [
        (torch.float64, "cpu", 5.0),
        (torch.bfloat16, "cpu", 5.0),
        (torch.float32, "meta", 5.0),
        (torch.float32, "cpu", 0.99),
        (torch.float32, "cpu", 100.0),
    ],
)
def test_elsewhere_the_kernel_is_not_used(dtype, device, beta):
    x = torch.randn(3, dtype=dtype, device=device, requires_grad=True)
    y = centered_softplus(x, torch.tensor(beta, dtype=dtype, device=device))
    assert y.grad_fn.name() == "_CenteredSoftplusBackward"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", BETAS)
def test_derivatives_up_to_the_third(beta, dtype):
    x, beta = points(dtype), torch.tensor(beta, dtype=dtype)
    _, first, second, third = derivatives(x, beta, 3)
    b = beta.item()
    s = expit(b * x.double().numpy())
    eps = torch.finfo(dtype).eps
    for got, want, unit in [
        (first, s, 1.0),
        (second, b * s * (1 - s), b / 4),
        (third, b**2 * s * (1 - s) * (1 - 2 * s), b**2 / 4),
    ]:
        assert torch.isfinite(got).all()
        np.testing.assert_allclose(got.double().numpy(), want, rtol=0, atol=4 * eps * unit)


@pytest.mark.parametrize("beta", BETAS)
def test_curvature_at_zero_is_a_quarter_of_beta(beta):
    zero = torch.zeros(1, dtype=torch.float64)
    value, first, second = derivatives(zero, torch.tensor(beta, dtype=torch.float64), 2)
    assert value.item() == 0.0
    assert first.item() == 0.5
    assert second.item() == pytest.approx(beta / 4, rel=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", BETAS)
def test_gradient_in_beta(beta, dtype):
    x = points(dtype)
    beta = torch.tensor(beta, dtype=dtype, requires_grad=True)
    got = torch.stack([torch.autograd.grad(centered_softplus(v, beta), beta)[0] for v in x]).double().numpy()
    b = np.longdouble(beta.item())
    slope = 1 / (1 + np.exp(-np.clip(b * x.numpy().astype(np.longdouble), -1e4, 1e4)))
    want = (x.numpy() * slope - exact(x, beta.detach())) / b
    scale = 4 * torch.finfo(dtype).eps * np.abs(x.double().numpy()) / float(b)
    assert (np.abs(got - want.astype(float)) <= scale + absolute(float(b), dtype) / float(b) + 1e-300).all()


def test_limits_are_half_the_line_and_the_ramp():
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    tiny, huge = torch.tensor(1e-12, dtype=x.dtype), torch.tensor(1e15, dtype=x.dtype)
    torch.testing.assert_close(centered_softplus(x, tiny), x / 2, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(centered_softplus(x, huge), x.clamp_min(0), rtol=0, atol=1e-15)


def test_autograd_agrees_with_numerical_differences_to_second_order():
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(centered_softplus, (x, beta))
    assert torch.autograd.gradgradcheck(centered_softplus, (x, beta))


def test_gradients_are_skipped_where_nobody_asks():
    x, beta = torch.randn(3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    assert torch.autograd.grad(centered_softplus(x, beta.detach()).sum(), x)[0].shape == x.shape
    assert torch.autograd.grad(centered_softplus(x.detach(), beta).sum(), beta)[0].shape == ()


def test_per_example_gradients_with_vmap():
    x, beta = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.5
    both = torch.func.grad(lambda x, b: centered_softplus(x, b).square().sum(), argnums=(0, 1))
    together = torch.func.vmap(both)(x, beta)
    for i in range(5):
        for got, want in zip(together, both(x[i], beta[i]), strict=True):
            torch.testing.assert_close(got[i], want)
    assert torch.func.vmap(centered_softplus, (None, 0))(x[0], beta).shape == (5, 4)


def test_a_batch_of_vectors_at_once():
    x, beta = torch.randn(6, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x, b: centered_softplus(x, b), (x, beta), vectorize=True)
    torch.testing.assert_close(jacobian[0], torch.diag(torch.sigmoid(beta * x)))
    hessian = torch.autograd.functional.hessian(lambda x: centered_softplus(x, beta).sum(), x, vectorize=True)
    slope = torch.sigmoid(beta * x)
    torch.testing.assert_close(hessian, torch.diag(beta * slope * (1 - slope)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_a_shared_beta_in_every_memory_format(layout):
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    beta = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    seed = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    (got,) = torch.autograd.grad((centered_softplus(x, beta) * seed).sum(), beta)
    want = (seed * (x * torch.sigmoid(beta * x) - centered_softplus(x, beta))).sum() / beta
    torch.testing.assert_close(got, want.detach())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own forward mode
def test_forward_mode_alone_and_over_reverse():
    x, beta = torch.randn(6, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    slope = torch.sigmoid(beta * x)
    value, tangent = torch.func.jvp(lambda x: centered_softplus(x, beta), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, slope)
    _, tangent = torch.func.jvp(lambda b: centered_softplus(x, b), (beta,), (torch.ones_like(beta),))
    torch.testing.assert_close(tangent, (x * slope - value) / beta)
    curvature = torch.func.jacfwd(torch.func.jacrev(lambda x: centered_softplus(x, beta).sum()))(x)
    torch.testing.assert_close(curvature.diagonal(), beta * slope * (1 - slope))


@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
def test_compiles_into_one_graph_with_its_gradients():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    layer = CenteredSoftplus().double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        torch.autograd.grad(compiled(x).square().sum(), (x, layer.log_beta)),
        torch.autograd.grad(layer(x).square().sum(), (x, layer.log_beta)),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_module_starts_at_beta0_and_learns_beta_with_its_floor():
    layer = CenteredSoftplus(beta0=2.0).double()
    assert layer.beta.item() == pytest.approx(2.001, abs=1e-7)
    x = torch.tensor([0.7], dtype=torch.float64)
    layer(x).backward()
    b = layer.beta.item()
    slope = 1 / (1 + math.exp(-b * 0.7))
    value = math.log((1 + math.exp(b * 0.7)) / 2) / b
    assert layer.log_beta.grad.item() == pytest.approx((0.7 * slope - value) / b * math.exp(layer.log_beta.item()))
    assert layer.no_weight_decay == {name for name, _ in layer.named_parameters()}


def test_fixed_beta_is_saved_but_not_trained():
    layer = CenteredSoftplus(beta0=3.0, learn_beta=False)
    assert not list(layer.parameters())
    assert "log_beta" in layer.state_dict()
    assert "centered" in repr(layer)


def test_uncentered_is_shifted_by_log_2_over_beta():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    layer = CenteredSoftplus(5.0, centered=False).double()
    want = nn.functional.softplus(x, beta=layer.beta.item(), threshold=100)
    torch.testing.assert_close(layer(x), want)


def test_copies_are_independent():
    layer = CenteredSoftplus()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.log_beta.add_(1)
    assert layer.beta < twin.beta
    layer.load_state_dict(twin.state_dict())
    assert layer.beta == twin.beta


@pytest.mark.parametrize("layer", [CenteredSoftplus, Softplus])
@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_bad_beta_is_refused(layer, beta):
    with pytest.raises(ValueError, match=r"expected beta0? > 0, got"):
        layer(beta)


@pytest.mark.parametrize("beta", [100.0, 1e3, 1e5])
def test_steep_softplus_in_float32_is_the_library_function_in_float64(beta):
    """Values within 1e-6/β, first derivatives within 1e-7, second ones within 1e-7·β, at every scale and at 0."""
    generator = torch.Generator().manual_seed(0)
    scales = [torch.randn(2000, generator=generator) * scale / beta for scale in (1e-3, 1, 20, 1000)]
    x = torch.cat([*scales, torch.tensor([0.0, -0.0, 1e-30, -200 / beta, 200 / beta, -1e3, 1e3])]).requires_grad_()
    seed = torch.randn(len(x), generator=generator)

    def derivatives(y):
        (first,) = torch.autograd.grad((y * seed).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * seed).sum(), x)
        return y, first, second

    plain = torch.autograd.grad((softplus(x, beta) * seed).sum(), x)[0]
    got, want = derivatives(softplus(x, beta)), derivatives(nn.functional.softplus(x.double(), beta=beta))
    for a, b, scale in zip(got, want, (10 / beta, 1, beta), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-6, atol=1e-7 * scale * seed.abs().max().item() ** 2)
    torch.testing.assert_close(plain, got[1], rtol=1e-6, atol=1e-30)


def test_steep_softplus_elsewhere_is_the_library_function():
    x = torch.randn(50)
    assert torch.equal(softplus(x.double(), 1e3), nn.functional.softplus(x.double(), beta=1e3))
    assert torch.equal(softplus(x, 99.0), nn.functional.softplus(x, beta=99.0))
    assert torch.equal(torch.func.vmap(lambda v: softplus(v, 1e3))(x), nn.functional.softplus(x, beta=1e3))


def test_plain_softplus_is_the_library_function():
    x = torch.linspace(-1, 1, 11)
    assert torch.equal(Softplus(10)(x), nn.functional.softplus(x, beta=10))
    assert Softplus()(torch.tensor([0.03])).item() == pytest.approx(0.03, abs=1e-9)  # a ramp in all but name
    assert Softplus(3.713).beta.item() == 3.713
    assert "beta=1000" in repr(Softplus())


@pytest.mark.parametrize("beta", BETAS)
def test_the_closed_form_derivatives_are_those_of_autograd(beta):
    z = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(
        centered_softplus(z, torch.tensor(beta, dtype=torch.float64)).sum(), z, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), z)
    closed = softplus_derivatives(z, beta)
    assert not any(d.requires_grad for d in closed)
    torch.testing.assert_close(closed, (first.detach(), second), rtol=1e-9, atol=1e-12 * beta)
