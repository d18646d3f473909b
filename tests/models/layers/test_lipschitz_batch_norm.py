"""γ-Lipschitz batch norm: the scale, the bound in eval mode, the gradient of γ, and what it learns from a batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bench.models.layers import LipschitzBatchNorm2d


def trained(gamma0: float = 10.0, deviations=(0.02, 0.5, 3.0)) -> LipschitzBatchNorm2d:
    """Return a float64 layer whose channels have the given running deviations (eps included)."""
    layer = LipschitzBatchNorm2d(len(deviations), gamma0).double()
    layer.running_var.copy_(torch.tensor(deviations, dtype=torch.float64).square() - layer.eps)
    layer.running_mean.normal_()
    return layer


def multipliers(layer: nn.Module, channels: int = 3) -> torch.Tensor:
    """Return each channel's gain in eval mode, from the layer's own outputs."""
    zero = torch.zeros(1, channels, 1, 1, dtype=torch.float64)
    return (layer.eval()(zero + 1) - layer(zero)).flatten()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 10.0, 49.0, 51.0, 1000.0])
def test_scale_is_uniform_and_the_gain_is_at_most_gamma(gamma):
    layer = trained(gamma)
    got = multipliers(layer)
    smallest = 0.02
    want = min(1.0, gamma * smallest) / torch.tensor([0.02, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)  # log γ is stored in float32 at first
    assert got.max() <= layer.gamma * (1 + 1e-12)
    assert layer.gain().item() == pytest.approx(got.max().item(), rel=1e-12)


def test_does_not_clip_channel_by_channel():
    # The paper's "equivalently" would leave a channel with deviation 3 > 1/γ alone; the formula shrinks it too.
    clipped, plain = multipliers(trained(10.0)), multipliers(trained(1e6))
    torch.testing.assert_close(clipped / plain, torch.full((3,), 0.2, dtype=torch.float64), rtol=1e-6, atol=0)


def test_loose_bound_is_plain_batch_norm():
    layer = trained(1e6)
    plain = nn.BatchNorm2d(3, affine=False).double()
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "log_gamma"})
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode)(x), plain.train(mode)(x), rtol=1e-13, atol=1e-14)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(layer, name), getattr(plain, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_in_every_memory_format(dtype, size, training):
    layer = LipschitzBatchNorm2d(16, 0.1).to(dtype).train(training)
    x = torch.randn(6, 16, size, size, dtype=dtype)
    seed, factor = torch.randn_like(x), layer.factor().detach()
    plain = x.clone().requires_grad_()
    stats = (torch.zeros(16, dtype=dtype), torch.ones(16, dtype=dtype))
    want = torch.autograd.grad(nn.functional.batch_norm(plain, *stats, training=training), plain, seed * factor)[0]
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.clone().contiguous(memory_format=layout).requires_grad_()
        got = torch.autograd.grad(copy.deepcopy(layer)(image), image, seed.contiguous(memory_format=layout))[0]
        torch.testing.assert_close(got, want)


def test_training_reads_the_running_variance_before_the_batch_updates_it():
    layer = trained(10.0)
    factor = layer.factor().item()
    assert factor == pytest.approx(0.2, rel=1e-6)
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    out = layer.train()(x)
    torch.testing.assert_close(out, factor * nn.functional.batch_norm(x, None, None, training=True))
    assert layer.factor() > factor  # the update has happened since


def test_gamma_gets_a_gradient_only_while_the_bound_is_active():
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    active, loose = trained(10.0), trained(60.0)
    (active(x) ** 2).sum().backward()
    (loose(x) ** 2).sum().backward()
    assert loose.log_gamma.grad.item() == 0
    # out = γ·σmin·BN(x), so d(Σ out²)/d log γ = 2 Σ out²
    twin = trained(10.0)
    assert active.log_gamma.grad.item() == pytest.approx(2 * (twin(x) ** 2).sum().item(), rel=1e-9)


def test_no_gradient_reaches_the_input_through_the_scale():
    layer = trained(10.0).eval()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).sum((0, 2, 3)), x).sum((1, 3, 4))
    torch.testing.assert_close(jacobian, torch.diag(multipliers(layer)) * 2 * 16)


def test_double_backward_in_training_mode():
    layer = trained(10.0)
    layer.running_var.requires_grad_(False)
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def pure(x):
        return copy.deepcopy(layer)(x)

    assert torch.autograd.gradcheck(pure, (x,))
    assert torch.autograd.gradgradcheck(pure, (x,))


def test_learns_without_weight_decay_and_refuses_bad_values():
    layer = LipschitzBatchNorm2d(2)
    assert layer.no_weight_decay == {name for name, _ in layer.named_parameters()} == {"log_gamma"}
    assert layer.gamma.item() == pytest.approx(10)
    with pytest.raises(ValueError, match="expected gamma0 > 0, got -1"):
        LipschitzBatchNorm2d(2, -1)
    with pytest.raises(ValueError, match="expected 4D input"):
        layer(torch.zeros(2, 2))


def test_copies_and_torch_func_and_per_example_gradients():
    layer = trained(10.0).eval()
    twin = copy.deepcopy(layer)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(twin(x), layer(x))
    each = torch.func.vmap(torch.func.grad(lambda x: layer(x[None]).square().sum()))(x)
    torch.testing.assert_close(each, torch.func.grad(lambda x: layer(x).square().sum())(x))
