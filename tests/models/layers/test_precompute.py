"""What needs no images, made at the beginning of a forward pass: the numbers of layers left to themselves."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.core import folding
from bench.models.backbones import Layers, build
from bench.models.layers import (
    CenteredSoftplus,
    LipschitzBatchNorm2d,
    PrecomputedWeight,
    SpectralNormConv2d,
    SpectralNormLinear,
    centered_softplus,
    layer_statistics,
    precompute,
    precomputed,
)
from bench.models.layers.spectral_norm import SpectralNormWeight
from bench.models.layers.walk import modules_of

LCNN = Layers(conv=SpectralNormConv2d, norm=LipschitzBatchNorm2d, activation=CenteredSoftplus)


class Chain(nn.Sequential):
    """Layers one after the other, whose image-independent work is made first."""

    def forward(self, x: Tensor) -> Tensor:
        with precomputed(self):
            return super().forward(x)


def conv(channels: int = 3) -> SpectralNormConv2d:
    return SpectralNormConv2d(channels, 4, 3, padding=1, in_size=(8, 8))


def steps(model: nn.Module, x: Tensor, *, penalised: bool) -> dict[str, Tensor]:
    """Take three optimiser steps, with a penalty on the input gradient or without; return what the model holds."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        x = x.detach().requires_grad_()
        loss = model(x).square().mean()
        if penalised:
            loss = loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()
        loss.backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("penalised", [False, True])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg11", "convnet"])
def test_the_numbers_are_those_of_layers_left_to_themselves(backbone, penalised, monkeypatch):
    torch.manual_seed(0)
    together = build(f"{backbone}-w4", 10, (3, 32, 32), LCNN).train()
    apart, x = copy.deepcopy(together), torch.rand(4, 3, 32, 32)
    found = steps(together, x, penalised=penalised)
    monkeypatch.setattr(precompute, "_precompute_all", lambda layers: [])
    want = steps(apart, x, penalised=penalised)
    for key, value in found.items():
        assert torch.equal(value, want[key]), key


def test_everything_comes_before_the_first_layer():
    seen = []
    network = Chain(conv(), LipschitzBatchNorm2d(4), CenteredSoftplus()).train()
    for layer in network:
        layer.register_forward_pre_hook(lambda *_: seen.append([part._precomputed is not None for part in network]))
    network(torch.rand(2, 3, 8, 8))
    assert seen == [[True, True, True], [False, True, True], [False, False, True]], "each takes its own, once"


def small() -> Chain:
    """Every kind of layer with a joint work, one of them twice, and a β that nobody trains."""
    torch.manual_seed(0)
    return Chain(
        SpectralNormConv2d(2, 3, 3, padding=1, in_size=(4, 4)), LipschitzBatchNorm2d(3, 0.5), CenteredSoftplus(2.0),
        SpectralNormConv2d(3, 2, 3, stride=2, in_size=(4, 4)), CenteredSoftplus(3.0, learn_beta=False), nn.Flatten(),
        SpectralNormLinear(2, 3),
    ).train()  # fmt: skip


def test_gradients_of_all_kinds_at_once_are_those_of_autograd_to_second_order():
    network = small().double()
    state, x = copy.deepcopy(network.state_dict()), torch.rand(2, 2, 4, 4, dtype=torch.float64)
    names = [name for name, _ in network.named_parameters()]

    def of(*weights: Tensor) -> Tensor:
        network.load_state_dict(state)  # each pass iterates from the same vectors
        return torch.func.functional_call(network, dict(zip(names, weights, strict=True)), (x,))

    def held(*weights: Tensor) -> Tensor:
        """Return what `of` does with the vectors of the iteration held: the map whose gradient is taken."""
        own, layers = dict(zip(names, weights, strict=True)), list(network)
        y = x
        for i, layer in enumerate(layers):
            if isinstance(layer, SpectralNormWeight):
                key = (
                    f"{i}.parametrizations.weight.original"
                    if isinstance(layer, SpectralNormLinear)
                    else f"{i}.raw_weight"
                )
                weight = own[key]
                y = layer_map(layer, y, weight / bilinear(layer, i, weight), own[f"{i}.bias"])
            elif isinstance(layer, LipschitzBatchNorm2d):
                factor = (own[f"{i}.log_gamma"].exp() * (state[f"{i}.running_var"].min() + layer.eps).sqrt()).clamp_max(
                    1
                )
                y = nn.functional.batch_norm(y, None, None, factor.expand(3), None, True, 0.1, layer.eps)
            elif isinstance(layer, CenteredSoftplus):
                y = centered_softplus(y, own.get(f"{i}.log_beta", layer.log_beta).exp() + 1e-3)
            else:
                y = layer(y)
        return y

    def bilinear(layer: SpectralNormWeight, i: int, weight: Tensor) -> Tensor:
        across, back = vectors[i]
        return (layer.back(across, weight) * back).sum()

    def layer_map(layer: nn.Module, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if isinstance(layer, SpectralNormLinear):
            return nn.functional.linear(y, weight, bias)
        return layer._conv_forward(y, weight, bias)

    vectors = {}
    for i, layer in enumerate(network):
        if isinstance(layer, SpectralNormWeight):
            across = layer.across(layer.kept_vector(), layer.raw_weight.detach())
            across = across / across.norm()
            back = layer.back(across, layer.raw_weight.detach())
            vectors[i] = across, back / back.norm()
    weights = [p.detach().clone().requires_grad_() for _, p in network.named_parameters()]
    direction = [torch.randn_like(w) for w in weights]
    found = []
    for function in (of, held):
        total = function(*weights).square().sum()
        first = torch.autograd.grad(total, weights, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, direction, strict=True))
        found.append([total, *first, *torch.autograd.grad(along, weights)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_a_step_leaves_nothing_to_the_garbage_collector():
    """A cycle through the graph would keep a step's tensors until Python looks for cycles."""
    network, seen = small(), []
    for layer in network:
        if isinstance(layer, PrecomputedWeight):
            layer.register_forward_pre_hook(lambda module, _: seen.append(weakref.ref(module._precomputed.tensor)))
    gc.disable()
    try:
        network(torch.rand(2, 2, 4, 4)).square().sum().backward()
        assert [ref() for ref in seen] == [None] * 6
    finally:
        gc.enable()


def test_what_nobody_trains_asks_for_no_gradient():
    network = small()
    seen = {}
    for name, layer in network.named_children():
        layer.register_forward_pre_hook(
            lambda module, _, name=name: seen.update({name: getattr(module, "_precomputed", None)})
        )
    network(torch.rand(2, 2, 4, 4))
    asked = {name: found.tensor.requires_grad for name, found in seen.items() if found is not None}
    assert asked == {"0": True, "1": True, "2": True, "3": True, "4": False, "6": True}


def test_a_layer_that_is_met_twice_iterates_twice():
    layer = conv(4)
    alone, network = copy.deepcopy(layer), Chain(layer, nn.ReLU(), layer).train()
    x = torch.rand(2, 4, 8, 8)
    assert torch.equal(network(x), alone(alone(x).relu()))
    assert torch.equal(layer.u, alone.u)


def test_a_network_within_another_iterates_once():
    inner = Chain(conv(), LipschitzBatchNorm2d(4))
    alone, outer = copy.deepcopy(inner).train(), Chain(inner, CenteredSoftplus()).train()
    x = torch.rand(2, 3, 8, 8)
    outer(x)
    alone(x)
    assert torch.equal(inner[0].u, alone[0].u)


class Choosy(nn.Module):
    """Goes by one of its two layers, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.met, self.left = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        with precomputed(self):
            if x.shape[1] != 3:
                raise ValueError("three channels")
            return self.met(x)


@pytest.mark.parametrize("channels", [3, 1])
def test_nothing_is_kept_for_the_next_pass(channels):
    network = Choosy().train()
    if channels == 3:
        network(torch.rand(2, 3, 8, 8))
    else:
        with pytest.raises(ValueError, match="three channels"):
            network(torch.rand(2, channels, 8, 8))
    assert network.left._precomputed is network.met._precomputed is None
    before = network.met.u.clone()
    network.met(torch.rand(2, 3, 8, 8))
    assert not torch.equal(network.met.u, before), "used by itself it iterates by itself"


def test_layers_and_networks_in_eval_mode_are_left_alone():
    network = Chain(conv(), conv(4)).train()
    network[1].eval()
    before = [layer.u.clone() for layer in network]
    network(torch.rand(2, 3, 8, 8))
    assert not torch.equal(network[0].u, before[0])
    assert torch.equal(network[1].u, before[1])
    network.eval()
    after = network[0].u.clone()
    network(torch.rand(2, 3, 8, 8))
    assert torch.equal(network[0].u, after)


@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
def test_a_whole_network_compiles_into_one_graph():
    torch.manual_seed(0)
    network = build("convnet-w4", 10, (3, 8, 8), LCNN).train()
    twin, x = copy.deepcopy(network), torch.rand(4, 3, 8, 8)
    torch.compile(network, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    twin(x).square().sum().backward()
    for ours, want in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, want.grad)


def test_a_network_inside_another_is_folded_by_attacks_like_any():
    network = nn.Sequential(nn.Identity(), build("convnet-w4", 10, (3, 8, 8), LCNN)).eval()
    assert folding.fold_constants(network, torch.rand(2, 3, 8, 8), passes=100) is not network


def test_frozen_layers_and_the_training_log():
    network = Chain(conv()).train()
    network.requires_grad_(False)
    network(torch.rand(2, 3, 8, 8))
    assert layer_statistics(network)["max_sigma_error"] >= 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_the_branches_of_a_cuda_graph_give_the_same_numbers():
    gpu = torch.device("cuda")
    torch.manual_seed(0)
    recorded = build("resnet18-w4", 10, (3, 32, 32), LCNN).to(gpu).train()
    eager, x = copy.deepcopy(recorded), torch.rand(4, 3, 32, 32, device=gpu)

    def step(model: nn.Module) -> None:
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(recorded)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(recorded)
    for _ in range(20):
        graph.replay()
    for _ in range(21):
        step(eager)
    for (name, ours), want in zip(recorded.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, want.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, value), want in zip(recorded.named_buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(value, want, rtol=1e-3, atol=1e-5, msg=name)


def test_modules_of_a_class_are_those_of_the_library_in_its_order():
    shared = nn.Sequential(conv(), nn.ReLU())
    network = nn.Sequential(shared, nn.Sequential(LipschitzBatchNorm2d(4), shared, conv(4)), shared[0])
    network.append(None)
    network[1].register_module("absent", None)
    for kind in (nn.Module, SpectralNormConv2d, nn.BatchNorm2d, nn.Conv2d):
        assert modules_of(network, kind) == [m for m in network.modules() if isinstance(m, kind)]
