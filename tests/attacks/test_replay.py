"""A search's recorded passes: what is recorded when, and that attacks find what they find without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.core import folding, replay
from bench.attacks.core.replay import MIN_CALLS, Recording, Replay
from bench.attacks.fab import fab
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core import registry
from bench.core.torch_state import frozen_eval

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
SHIPPED = tuple(registry.defenses)  # before any test adds to them


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 3))


def stand_in(recorded: list[tuple[int, bool]]):
    """Return what stands in for a recorder: the "graphs" compute with the network at each launch."""

    def record(function, x: Tensor, differentiable: bool) -> Recording:
        recorded.append((len(x), differentiable))
        images = x.clone()
        made = Recording(images, function(images).detach(), lambda: None)

        def forward() -> None:
            made.logits.copy_(function(images).detach())

        def backward() -> None:
            leaf = images.clone().requires_grad_()
            with torch.enable_grad():
                (found,) = torch.autograd.grad(function(leaf), leaf, made.seed)
            made.gradient.copy_(found)

        made.forward = forward
        if differentiable:
            made.seed, made.gradient, made.backward = torch.ones_like(made.logits), torch.zeros_like(x), backward
        return made

    return record


def test_a_shape_is_recorded_once_it_keeps_coming_and_gives_the_same() -> None:
    model, recorded = network(), []
    fast = Replay(model, stand_in(recorded))
    draw = torch.Generator().manual_seed(1)
    for size in (5, 2, 5):
        for _ in range(MIN_CALLS + 2):
            x = torch.rand(size, 1, 3, 4, generator=draw)
            with torch.no_grad():
                torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)
            leaves = [x.clone().requires_grad_() for _ in range(2)]
            with torch.enable_grad():
                for leaf, of in zip(leaves, (fast, model), strict=True):
                    of(leaf).logsumexp(1).sum().backward()
            torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=0)
    assert recorded == [(5, False), (5, True), (2, False), (2, True), (5, False), (5, True)]


def test_logits_and_gradients_outlive_the_next_pass() -> None:
    fast = Replay(network(), stand_in([]))
    x = torch.rand(2, 1, 3, 4)
    with torch.no_grad():
        for _ in range(MIN_CALLS):
            fast(x)
        first = fast(x)
        kept = first.clone()
        fast(x + 1)
    assert torch.equal(first, kept)


def test_a_backward_pass_that_comes_too_late_is_refused() -> None:
    fast = Replay(network(), stand_in([]))
    x = torch.rand(2, 1, 3, 4, requires_grad=True)
    for _ in range(MIN_CALLS):
        fast(x)
    first = fast(x)
    fast(x)
    with pytest.raises(RuntimeError, match="expected its backward pass before the next forward pass"):
        first.sum().backward()


def test_shapes_that_take_turns_are_not_recorded_at_every_turn() -> None:
    recorded: list[tuple[int, bool]] = []
    fast = Replay(network(), stand_in(recorded))
    with torch.no_grad():
        for i in range(8 * MIN_CALLS):
            fast(torch.rand(2 + i % 2, 1, 3, 4))
    assert len(recorded) <= 8


def test_a_recording_that_fails_is_not_tried_again() -> None:
    calls, model = [], network()

    def record(function, x, differentiable):
        calls.append(len(x))
        raise RuntimeError("operation not permitted when stream is capturing")

    fast = Replay(model, record)
    x = torch.rand(3, 1, 3, 4)
    with torch.no_grad():
        for _ in range(MIN_CALLS + 5):
            assert torch.equal(fast(x), model(x))
    assert calls == [3]


def test_networks_of_others_are_never_recorded() -> None:
    class Own(nn.Module):
        def forward(self, x):
            return x

    assert replay.only_known_layers(network())
    assert not replay.only_known_layers(nn.Sequential(network(), Own()))
    for entry in SHIPPED:
        model = entry.function(10, (1, 8, 8), "convnet-w4").eval()
        with frozen_eval(model):
            fast = folding.fold_constants(model, torch.rand(2, 1, 8, 8), 100)
        assert fast is model or replay.only_known_layers(fast), entry.name


@GPU
@pytest.mark.parametrize("name", ["standard", "lcnn"])
def test_attacks_on_a_gpu_find_the_same_with_recorded_passes(name, monkeypatch) -> None:
    torch.manual_seed(0)
    model = registry.defenses.get(name).function(10, (3, 16, 16), "resnet18-w4").cuda().eval()
    x = torch.rand(40, 3, 16, 16, device="cuda")
    y = model(x).argmax(1)
    recordings = []

    def record(function, x, differentiable, make=folding.record_on_gpu):
        recordings.append(len(x))
        return make(function, x, differentiable)

    settings = ((pgd, {"steps": 40}), (fab, {"steps": 40}), (square, {"n_queries": 200}))
    for attack, arguments in settings:
        margins = []
        for allowed in (True, False):
            recordings.clear()
            with monkeypatch.context() as patch:
                patch.setattr(folding, "record_on_gpu", record)
                if not allowed:
                    patch.setattr(folding, "only_known_layers", lambda model: False)
                trace: dict[str, Tensor] = {}
                attack(model, x, y, eps=0.02, trace=trace, **arguments)
            margins.append(trace["margin"])
            assert bool(recordings) == allowed
        torch.testing.assert_close(*margins, rtol=1e-3, atol=1e-4)
        assert torch.equal(margins[0] > 0, margins[1] > 0)
