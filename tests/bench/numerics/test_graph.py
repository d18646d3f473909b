"""Kinks, curved operations and Lipschitz gains read off the autograd graph."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.models.layers import CenteredSoftplus, LipschitzBatchNorm2d
from bench.numerics.autograd_graph import nonsmooth_ops, operation, record_activations, topological_order
from bench.numerics.lipschitz import lipschitz_graph
from bench.numerics.model_precision import differentiable_eval
from bench.numerics.op_norms import nonaffine_ops, op_lipschitz


def seen(model, shape=(1, 6, 6)):
    """Return (logits, calls) of a float64 copy on two random images."""
    with differentiable_eval(model.eval(), "float64") as ready:
        x = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        with record_activations(ready) as calls:
            logits = ready(x)
    return logits, calls


class Function(nn.Module):
    """A model from a function of the image."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


KINKED = {
    "relu": (F.relu, "Relu"),
    "leaky": (lambda x: F.leaky_relu(x), "LeakyRelu"),
    "relu6": (F.relu6, "Hardtanh"),
    "elu": (F.elu, "Elu"),
    "prelu": (lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype)), "PreluKernel"),
    "hardswish": (F.hardswish, "Hardswish"),
    "maxpool": (lambda x: F.max_pool2d(x, 2), "MaxPool2DWithIndices"),
    "adaptive": (lambda x: F.adaptive_max_pool2d(x, 2), "AdaptiveMaxPool2D"),
    "abs": (torch.abs, "Abs"),
    "clamp": (lambda x: x.clamp(0.2, 0.8), "Clamp"),
    "clamp_min": (lambda x: x.clamp_min(0.2), "ClampMin"),
    "maximum": (lambda x: torch.maximum(x, x * 2 - 0.5), "Maximum"),
    "where": (lambda x: torch.where(x > 0.5, x, 2 * x), "Where"),
    "round": (lambda x: x + x.round(), "Round"),
    "sort": (lambda x: x.flatten(1).sort(1).values[:, :, None, None], "Sort"),
    "minimum": (lambda x: torch.minimum(x, 1 - x), "Minimum"),
    "median": (lambda x: x + x.median(), "Median"),
    "amax": (lambda x: x + x.amax((2, 3), keepdim=True), "Amax"),
}


@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_found_by_operation(name):
    function, expected = KINKED[name]
    logits, calls = seen(Function(lambda x: function(x).flatten(1)))
    assert expected in nonsmooth_ops(logits, calls)


def test_smooth_operations_are_no_kinks(model):
    assert nonsmooth_ops(*seen(model)) == []
    for function in (torch.tanh, F.silu, F.gelu, F.softplus, torch.exp, F.mish, lambda x: F.avg_pool2d(x, 2)):
        assert nonsmooth_ops(*seen(Function(lambda x, f=function: f(x).flatten(1)))) == []


def test_a_kinked_module_hidden_in_a_custom_function_is_found_by_its_class():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.relu()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Hidden(nn.ReLU):
        def forward(self, x):
            return Opaque.apply(x)

    assert nonsmooth_ops(*seen(nn.Sequential(Hidden(), nn.Flatten()))) == ["Hidden"]


def test_an_unused_kink_does_not_count():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare, self.fc = nn.ReLU(), nn.Linear(36, 3)

        def forward(self, x):
            return self.fc(x.flatten(1))

    assert nonsmooth_ops(*seen(Spare())) == []


def test_curved_operations_outside_known_activations_are_named(model):
    assert nonaffine_ops(*seen(model)) == []
    assert nonaffine_ops(*seen(Function(lambda x: F.softplus(x).flatten(1)))) == ["Softplus"]  # a call, not a module
    assert nonaffine_ops(*seen(Function(lambda x: (x * x.mean((2, 3), keepdim=True)).flatten(1)))) == ["Mul"]
    assert nonaffine_ops(*seen(Function(lambda x: (1 / (1 + x)).flatten(1)))) == ["Reciprocal"]
    assert nonaffine_ops(*seen(nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(36, 2)))) == []


AFFINE = {
    "conv": nn.Conv2d(1, 3, 3, padding=1),
    "strided": nn.Conv2d(1, 4, 3, stride=2, padding=1),
    "valid": nn.Conv2d(1, 3, 3),
    "even": nn.Conv2d(1, 3, 2, stride=2),
    "grouped": nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "norm": nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)),
    "average": nn.AvgPool2d(2),
    "overlap": nn.AvgPool2d(3, stride=1, padding=1),
    "valid_counts": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d(4),
    "adaptive_one": nn.AdaptiveAvgPool2d(1),
    "mean": Function(lambda x: x.mean((2, 3))),
    "sum": Function(lambda x: x.sum(3)),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 5)),
    "scaled": Function(lambda x: -x * 0.5 / 3 - 1),
    "channelwise": Function(lambda x: x * torch.linspace(-2, 1, 6, dtype=x.dtype)),
    "concatenated": Function(lambda x: torch.cat([x, 2 * x], 1)),
    "residual": Function(lambda x: (x / math.sqrt(2) + 3 * x.flip(3)) * 0.5),
    "padded": Function(lambda x: F.pad(x, (1, 2, 0, 1))[:, :, 1:]),
}


@pytest.mark.parametrize("name", AFFINE)
def test_gains_of_affine_maps_bound_their_dense_norm(name):
    torch.manual_seed(0)
    model = nn.Sequential(AFFINE[name], nn.Flatten())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(torch.tensor([0.1, 2.0, 0.5]))
            nn.init.uniform_(module.weight)
    logits, calls = seen(model)
    with differentiable_eval(model, "float64") as ready:
        jacobian = torch.autograd.functional.jacobian(ready, torch.rand(1, 1, 6, 6, dtype=torch.float64))
    truth = float(torch.linalg.matrix_norm(jacobian.reshape(-1, 36), 2))
    constants = lipschitz_graph(logits, calls.activations)
    bound = constants.from_input()[constants.order[-1]]
    assert truth <= bound * (1 + 1e-9)
    exact = {"scaled", "channelwise", "average", "overlap", "valid_counts", "adaptive", "adaptive_one", "mean", "sum",
             "concatenated"}  # fmt: skip
    if name in exact:
        assert bound == pytest.approx(truth, rel=1e-9)


def test_the_lipschitz_batch_norm_has_the_gain_it_claims():
    for gamma in (0.5, 100.0):
        norm = LipschitzBatchNorm2d(3, gamma)
        norm.running_var.copy_(torch.tensor([0.1, 2.0, 0.5]))
        logits, calls = seen(nn.Sequential(norm, nn.Flatten()), (3, 4, 4))
        constants = lipschitz_graph(logits, calls.activations)
        bound = constants.from_input()[constants.order[-1]]
        assert bound == pytest.approx(min(gamma, 1 / math.sqrt(0.1 + 1e-5)), rel=1e-6)
        assert bound == pytest.approx(float(norm.gain().detach()), rel=1e-6)


def test_a_residual_block_has_the_sum_of_its_branches_over_two_root_two():
    def block(x):
        x = x / math.sqrt(2)
        return ((3 * x + 5 * x) * 0.5).flatten(1)

    logits, calls = seen(Function(block))
    constants = lipschitz_graph(logits, calls.activations)
    assert constants.from_input()[constants.order[-1]] == pytest.approx((3 + 5) / (2 * math.sqrt(2)))


@pytest.mark.parametrize(("kernel", "stride", "factor"), [(2, 2, 1.0), (3, 1, 3.0), (3, 2, 2.0)])
def test_max_pools_that_overlap_count_pixels_several_times(kernel, stride, factor):
    logits, _ = seen(Function(lambda x: F.max_pool2d(x, kernel, stride).flatten(1)))
    node = next(n for n in topological_order(logits) if operation(n).startswith("MaxPool"))
    assert op_lipschitz(node) == pytest.approx(factor)


def test_onward_and_inward_gains_meet_in_the_whole(model):
    logits, calls = seen(model)
    constants = lipschitz_graph(logits, calls.activations)
    into, onward = constants.from_input(), constants.to_logits()
    first = constants.order[0]
    assert onward[first] == pytest.approx(into[constants.order[-1]], rel=1e-9)
    for activation in calls.activations:  # through any activation goes at most the whole
        passed = into[activation.after.grad_fn] * onward[activation.after.grad_fn]
        assert passed <= into[constants.order[-1]] * (1 + 1e-9)


def test_an_uncentered_softplus_is_one_map_of_slope_one():
    logits, calls = seen(nn.Sequential(CenteredSoftplus(2.0, centered=False), nn.Flatten()))
    constants = lipschitz_graph(logits, calls.activations)
    assert constants.from_input()[constants.order[-1]] == pytest.approx(1.0)


def test_local_slopes_replace_the_supremum():
    logits, calls = seen(nn.Sequential(nn.Flatten(), CenteredSoftplus(2.0), nn.Linear(36, 2)))
    constants = lipschitz_graph(logits, calls.activations)
    halved = constants.from_input({calls.activations[0].after.grad_fn: 0.5})
    assert halved[constants.order[-1]] == pytest.approx(0.5 * constants.from_input()[constants.order[-1]])


def test_unknown_operations_have_no_gain():
    logits, calls = seen(Function(lambda x: x.exp().flatten(1)))
    with pytest.raises(NotImplementedError, match="Exp"):
        lipschitz_graph(logits, calls.activations)
