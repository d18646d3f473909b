"""The spectrally normalised convolution: what it computes, what it learns, and how it is saved and copied."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.models.layers import SpectralNormConv2d, conv_norm_bound, top_singular


def make(dtype=torch.float64, **settings) -> SpectralNormConv2d:
    torch.manual_seed(1)
    settings = {"in_channels": 3, "out_channels": 5, "kernel_size": 3, "padding": 1, "in_size": (6, 8), **settings}
    return SpectralNormConv2d(**settings).to(dtype)


def norm(conv: SpectralNormConv2d) -> float:
    """Return the true norm of what the layer applies in eval mode."""
    return top_singular(conv.weight.detach(), conv.geometry)[0].item()


SETTINGS = [
    {},
    {"stride": 2},
    {"dilation": 2, "padding": 2},
    {"in_channels": 4, "out_channels": 6, "groups": 2},
    {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_finalized_layer_has_norm_one(settings):
    conv = make(**settings)
    conv(torch.rand(2, conv.in_channels, 6, 8, dtype=torch.float64))
    assert 1 - 1e-12 < norm(conv) < 1.2  # power iteration errs low, so the normalised layer errs high
    conv.finalize()
    assert norm(conv) == pytest.approx(1, rel=1e-9)
    assert conv.sigma_error() < 1e-9
    assert conv_norm_bound(conv.weight, conv.geometry) >= 1 - 1e-9


SHAPES = [
    {
        "in_channels": channels,
        "out_channels": out,
        "in_size": size,
        "kernel_size": kernel,
        "stride": stride,
        "padding": pad,
    }
    for channels, out in [(1, 1), (1, 8), (3, 16), (16, 16), (64, 32)]
    for size in [(8, 8), (7, 12)]
    for kernel, stride, pad in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), ((3, 2), (2, 1), (1, 0)), (5, 3, 2)]
]


@pytest.mark.parametrize("settings", [*SETTINGS, *SHAPES, {"authors_size": True}, {"groups": 3, "out_channels": 6}])
def test_the_norm_before_any_training_step_is_one(settings):
    for seed in range(3):
        torch.manual_seed(seed)
        defaults = {"in_channels": 3, "out_channels": 5, "kernel_size": 3, "padding": 1, "in_size": (6, 8)}
        conv = SpectralNormConv2d(**{**defaults, **settings}).eval()
        exact = top_singular(conv.weight.detach().double(), conv.geometry, rounds=50)[0].item()
        assert exact == pytest.approx(1, abs=1e-3)


def test_construction_draws_the_weight_and_one_vector_and_training_starts_from_the_iterated_vector():
    torch.manual_seed(0)
    conv = SpectralNormConv2d(3, 5, 3, padding=1, in_size=(6, 8))
    after = torch.rand(3)
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 3, padding=1)
    u = torch.randn(1, 5, 6, 8)
    u = u / u.norm()
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(conv.raw_weight, plain.weight)
    with torch.no_grad():
        for _ in range(15):
            v = nn.functional.conv_transpose2d(u, plain.weight, padding=1)
            u = nn.functional.conv2d(v / v.norm(), plain.weight, padding=1)
            u = u / u.norm()
    torch.testing.assert_close(conv.u, u, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_builds_under_another_default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        conv = SpectralNormConv2d(3, 5, 3, padding=1, in_size=(6, 8)).eval()
    finally:
        torch.set_default_dtype(before)
    assert conv.sigma.dtype == dtype
    assert norm(conv) == pytest.approx(1, abs=5 * torch.finfo(dtype).eps + 1e-9)


def test_forward_is_the_convolution_with_the_reported_weight():
    conv = make(bias=True).eval()
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(conv(x), nn.functional.conv2d(x, conv.weight, conv.bias, padding=1), rtol=1e-14, atol=0)
    torch.testing.assert_close(conv.weight * conv.sigma, conv.raw_weight)


def test_each_training_forward_is_one_power_iteration_on_the_true_map():
    conv = make()
    matrix = conv.geometry.forward(torch.eye(144, dtype=torch.float64).view(144, 3, 6, 8), conv.raw_weight).flatten(1).T
    u = conv.u.flatten()
    v = matrix.T @ u / (matrix.T @ u).norm()
    sigma = (matrix @ v).norm()
    conv(torch.rand(2, 3, 6, 8, dtype=torch.float64))
    assert conv.sigma.item() == pytest.approx(sigma.item(), rel=1e-12)
    torch.testing.assert_close(conv.u.flatten(), matrix @ v / sigma)


def test_iterations_converge_to_the_dense_norm():
    conv = make()
    true = top_singular(conv.raw_weight.detach(), conv.geometry)[0].item()
    for _ in range(3000):
        conv.precompute(conv.raw_weight.detach())
    assert conv.sigma.item() == pytest.approx(true, rel=1e-9)


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_gradient_of_the_normalised_weight_is_that_of_its_definition(again):
    """W/⟨u, conv(v; W)⟩ with u and v held constant, differentiated by autograd once, and again."""
    conv = make()
    weight = conv.raw_weight
    v = conv.geometry.adjoint(conv.u, weight).detach()
    v /= v.norm()
    got = conv.precompute(weight)
    want = weight / (conv.u * conv.geometry.forward(v, weight)).sum()
    for normalised in (got, want):
        torch.testing.assert_close(normalised, got.detach(), rtol=1e-12, atol=0)
    direction, other = torch.randn(2, *weight.shape, dtype=torch.float64)
    gradients = [torch.autograd.grad((w * direction).sum(), weight, create_graph=again)[0] for w in (got, want)]
    if again:
        gradients = [torch.autograd.grad((g * other).sum(), weight)[0] for g in gradients]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_zero_stays_zero_and_finite(dtype):
    conv = make(dtype)
    with torch.no_grad():
        conv.raw_weight.zero_()
    y = conv(torch.rand(2, 3, 6, 8, dtype=dtype))
    y.square().sum().backward()
    assert torch.isfinite(conv.raw_weight.grad).all()
    assert torch.equal(conv.eval()(torch.zeros(1, 3, 6, 8, dtype=dtype)), conv.bias.view(1, 5, 1, 1).expand(1, 5, 6, 8))
    assert not conv.weight.any()


def test_weight_gradient_is_orthogonal_to_the_weight():
    # W/σ(W) does not change when W is scaled, so the loss's gradient has no component along W.
    conv = make()
    conv(torch.rand(2, 3, 6, 8, dtype=torch.float64)).square().sum().backward()
    along = (conv.raw_weight.grad * conv.raw_weight).sum() / (conv.raw_weight.grad.norm() * conv.raw_weight.norm())
    assert abs(along.item()) < 1e-12


def test_two_forwards_then_one_backward():
    conv = make()
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    (conv(x) + conv(x + 1)).sum().backward()  # the buffers moved on; the first pass must not depend on them
    assert torch.isfinite(conv.raw_weight.grad).all()


def test_double_backward_reaches_the_weight():
    conv = make()
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(conv(x).tanh().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert torch.isfinite(conv.raw_weight.grad).all()
    assert conv.raw_weight.grad.norm() > 0


def test_eval_mode_changes_nothing_and_repeats_exactly():
    conv = make().eval()
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    assert torch.equal(conv(x), conv(x))
    assert all(torch.equal(v, before[k]) for k, v in conv.state_dict().items())


def test_authors_size_over_estimates_slightly():
    true = make(stride=2, in_size=(8, 8))
    authors = make(stride=2, in_size=(8, 8), authors_size=True)
    true.finalize(), authors.finalize()
    assert 1 < authors.sigma / true.sigma < 1.1


def test_saved_and_copied_layers_are_bit_equal(tmp_path):
    conv = make(torch.float32)
    conv(torch.rand(4, 3, 6, 8))
    conv.finalize()
    conv.eval()
    x = torch.rand(7, 3, 6, 8)
    save_file(conv.state_dict(), tmp_path / "w.safetensors")
    fresh = SpectralNormConv2d(3, 5, 3, padding=1, in_size=(6, 8)).eval()
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(fresh(x), conv(x))
    twin = copy.deepcopy(conv)
    assert torch.equal(twin(x), conv(x))
    twin.train()(x)
    assert not torch.equal(twin.u, conv.u)
    assert set(conv.state_dict()) == {"raw_weight", "bias", "u", "sigma"}


def test_per_example_weight_gradients_with_torch_func():
    conv = make().eval()
    x = torch.rand(3, 3, 6, 8, dtype=torch.float64)

    def loss(weights, x):
        return torch.func.functional_call(conv, weights, (x[None],)).square().sum()

    weights = {"raw_weight": conv.raw_weight.detach()}
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)["raw_weight"]
    conv(x).square().sum().backward()
    torch.testing.assert_close(each.sum(0), conv.raw_weight.grad)


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="compiled by torch 2.11, σ is not stored")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
def test_compiles_into_one_graph_and_still_iterates():
    conv, twin = make(), make()
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        compiled(x).square().sum().backward()
        twin(x).square().sum().backward()
    torch.testing.assert_close(conv.raw_weight.grad, twin.raw_weight.grad)
    torch.testing.assert_close(conv.u, twin.u)
    torch.testing.assert_close(conv.sigma, twin.sigma)


def test_is_a_convolution_to_others():
    conv = make()
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == (5, 3, 3, 3)
    assert "kernel_size=(3, 3)" in repr(conv)
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        _ = conv.wieght


def test_the_weight_is_read_only_and_not_a_parameter():
    conv = make()
    assert [name for name, _ in conv.named_parameters()] == ["bias", "raw_weight"]
    assert list(conv.state_dict()) == ["bias", "raw_weight", "u", "sigma"]
    with pytest.raises(KeyError, match="weight"):
        conv.weight = nn.Parameter(torch.zeros(5, 3, 3, 3))
