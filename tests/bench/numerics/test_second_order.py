"""The engine of Hessian-vector products against torch's own second derivatives, and what one product costs."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.models.layers import CenteredSoftplus, Softplus
from bench.numerics.derivatives import expand
from bench.numerics.hvp_ops import hvp_optimized
from bench.numerics.model_precision import differentiable_eval
from bench.numerics.smoothness import SMOOTH

DOUBLE = torch.float64


def products(model, x, weight, v):
    """Return output, gradient and Hessian-vector product of Σ weight·model(x), each detached."""
    x = x.clone().requires_grad_(True)
    output = model(x)
    (gradient,) = torch.autograd.grad(output, x, weight.expand_as(output), create_graph=True)
    if not gradient.requires_grad:
        return output.detach(), gradient, torch.zeros_like(x)
    (product,) = torch.autograd.grad(gradient, x, v, materialize_grads=True)
    return output.detach(), gradient.detach(), product


def compare(model, shape=(1, 6, 6), **tolerance):
    """Hold the engine against torch on two random images in float64; parameters are constants."""
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 2, *shape, generator=generator, dtype=DOUBLE)
    with differentiable_eval(model.eval(), "float64") as ready:
        weight = torch.randn(ready(x).shape, generator=generator, dtype=DOUBLE)
        expected = products(ready, x, weight, v)
        with hvp_optimized(ready):
            found = products(ready, x, weight, v)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, **tolerance)
    return expected[2]


def test_networks_have_the_same_value_gradient_and_product(model):
    assert compare(model).abs().max() > 1e-6


CONVOLUTIONS = {
    "plain": nn.Conv2d(1, 3, 3),
    "padded": nn.Conv2d(1, 3, 3, padding=1, bias=False),
    "strided": nn.Conv2d(1, 3, 3, stride=2, padding=1),
    "unequal": nn.Conv2d(1, 3, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": nn.Conv2d(1, 3, 3, dilation=2, padding=2),
    "grouped": nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 3, groups=2)),
    "same": nn.Conv2d(1, 3, 3, padding="same"),
    "circular": nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"),
    "transposed": nn.ConvTranspose2d(1, 3, 3),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_kind(name):
    torch.manual_seed(0)
    compare(nn.Sequential(CONVOLUTIONS[name], nn.Tanh(), nn.Flatten()))


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_in_eval_mode(affine):
    norm = nn.BatchNorm2d(3, affine=affine)
    norm.running_mean.copy_(torch.tensor([0.2, -1.0, 3.0]))
    norm.running_var.copy_(torch.tensor([0.1, 2.0, 0.5]))
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    torch.manual_seed(0)
    compare(nn.Sequential(nn.Conv2d(1, 3, 1), norm, CenteredSoftplus(2.0), nn.Flatten()))


def test_batch_norm_without_statistics_is_left_to_torch():
    torch.manual_seed(0)
    compare(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, track_running_stats=False), nn.Tanh(), nn.Flatten()))


SETTINGS = {
    CenteredSoftplus: [{"beta0": 3.0}, {"beta0": 1e3}, {"centered": False}],
    Softplus: [{"beta": 0.1}, {"beta": 1e3}],
    nn.Softplus: [{"beta": 0.3}, {"beta": 7, "threshold": 2}],
}


@pytest.mark.parametrize("activation", [kind(**s) for kind in SMOOTH for s in SETTINGS.get(kind, [{}])], ids=repr)
def test_activations_of_every_kind(activation):
    compare(nn.Sequential(nn.Flatten(), nn.Linear(36, 20), activation, nn.Linear(20, 4), activation))


class Odd(nn.Tanh):
    """Named like an elementwise function, and is none."""

    def forward(self, x):
        return super().forward(x) * x.mean(1, keepdim=True)


def test_a_class_derived_from_an_activation_is_left_to_torch():
    compare(nn.Sequential(nn.Flatten(), nn.Linear(36, 20), Odd()))


def test_functions_called_without_a_module():
    weight = torch.randn(3, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    class Net(nn.Module):
        def forward(self, x):
            z = F.conv2d(input=x, weight=weight, stride=2)
            z = F.batch_norm(z, z.new_zeros(3), z.new_full((3,), 0.3), eps=1e-3)
            return F.softplus(z, beta=2).flatten(1)

    compare(Net())


def test_hooks_of_the_model_see_and_change_the_outputs():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh())
    seen = []
    model[2].register_forward_hook(lambda m, i, out: (seen.append(m), out * 2)[1])
    compare(model)
    assert len(seen) == 3  # the size, torch, the engine
    assert len(model[2]._forward_hooks) == 1


def test_parameters_that_require_gradients_keep_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), CenteredSoftplus(2.0), nn.Flatten(), nn.Linear(108, 2))
    x = torch.rand(2, 1, 6, 6)
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    with hvp_optimized(model):
        found = torch.autograd.grad(model(x.requires_grad_(True)).sum(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


class Inner(nn.Module):
    """A model that takes a step along its own gradient before it answers: its Hessian needs third derivatives."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.net = nn.Sequential(nn.Conv2d(1, 3, 3), CenteredSoftplus(2.0), nn.Flatten(), nn.Linear(48, 2), nn.Tanh())

    def forward(self, x):
        if self.how == "autograd":
            (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        else:
            slope = torch.func.grad(lambda v: self.net(v).sum())(x)
        return self.net(x - 0.1 * slope)


@pytest.mark.parametrize("how", ["autograd", "torch.func"])
def test_a_model_that_differentiates_inside_its_forward_pass(how):
    torch.manual_seed(0)
    model, v = Inner(how).double().eval(), torch.randn(2, 1, 6, 6, dtype=DOUBLE)
    x, weight = torch.randn(2, 1, 6, 6, dtype=DOUBLE), torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    for p in model.parameters():
        p.requires_grad_(False)
    expected = products(model, x, weight, v)
    with hvp_optimized(model):
        found = products(model, x, weight, v)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert expected[2].abs().max() > 1e-3


class Count(TorchDispatchMode):
    """Counts the library's operations."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found[str(function.overloadpacket).removeprefix("aten.")] += 1
        return function(*args, **(kwargs or {}))


def test_a_product_is_two_convolutions_per_layer_and_no_activation(model, images):
    x, y = images
    layers = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    with differentiable_eval(model) as ready:
        at = expand(ready, x, y)
        with Count() as count:
            at.hvp(torch.ones(6, 36))
    assert count.found["convolution"] == layers
    assert count.found["convolution_backward"] == layers
    for wasted in ("native_batch_norm_backward", "sigmoid", "softplus_backward", "tanh", "rsqrt"):
        expected = 1 if wasted in ("sigmoid", "softplus_backward") else 0  # the loss's own
        assert count.found[wasted] <= expected, wasted


class Attention(nn.Module):
    """One attention over pixels, by torch's fused function or by its formula."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.last, self.fused = nn.Linear(1, 24), nn.Linear(8, 3), fused

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(1)[..., None]).chunk(3, -1)
        if self.fused:
            found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            found = (q @ k.mT / 8**0.5).softmax(-1) @ v
        return self.last(found.mean(1))


def test_fused_attention_is_differentiated_twice():
    torch.manual_seed(0)
    fused, formula = Attention(True).eval(), Attention(False).eval()
    formula.load_state_dict(fused.state_dict())
    x, y = torch.rand(4, 1, 4, 4), torch.arange(4) % 3
    v = torch.randn(4, 16)
    a, b = expand(fused, x, y), expand(formula, x, y)
    torch.testing.assert_close(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(a.hvp(v), b.hvp(v), rtol=1e-3, atol=1e-6)
