"""Models that escape the fast second-derivative engine: the check sees it, and curvature is that of plain autograd."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench.core.errors import BenchError
from bench.evaluations.bounds import bounds
from bench.evaluations.curvature import curvature
from bench.evaluations.stability import stability
from bench.numerics.engine_check import checked_engine
from bench.numerics.model_precision import differentiable_eval


def network(activation=nn.Softplus) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), norm, activation(), nn.Flatten(), nn.Linear(108, 5)).eval()


class Wrapped(nn.Module):
    """A network called in a way of its own."""

    def __init__(self, call) -> None:
        super().__init__()
        self.net, self.call = network(), call

    def forward(self, x):
        return self.call(self.net, x)


class ChangingBeta(nn.Module):
    """One activation, called with two β in one pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(36, 20), nn.Linear(20, 20), nn.Linear(20, 5)
        self.act = nn.Softplus()

    def forward(self, x):
        self.act.beta = 1.0
        z = self.act(self.first(x.flatten(1)))
        self.act.beta = 8.0
        return self.last(self.act(self.second(z)))


def replaced_forward() -> nn.Module:
    model = network()
    plain = model[2].forward
    model[2].forward = lambda z: plain(z) * z.mean(1, keepdim=True)
    return model


def half_precision(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net(x).float()


def functional(net, x):
    return torch.func.functional_call(net, dict(net.named_parameters()) | dict(net.named_buffers()), (x,))


def compiled(how: str) -> nn.Module:
    torch._dynamo.reset()
    model = network()
    if how == "model":
        return torch.compile(model)
    if how == "in place":
        model.compile(backend="aot_eager")
    else:
        model.forward = torch.compile(model.forward, backend="eager")
    return model


ESCAPES = {
    "activation with another forward": replaced_forward,
    "beta changes between calls": ChangingBeta,
    "checkpoint": lambda: Wrapped(lambda net, x: checkpoint(net, x, use_reentrant=False)),
    "autocast inside": lambda: Wrapped(half_precision),
}
FOLLOWED = {
    "functional_call": lambda: Wrapped(functional),
    "vmap": lambda: Wrapped(lambda net, x: torch.func.vmap(lambda image: net(image[None])[0])(x)),
    "DataParallel": lambda: nn.DataParallel(network()),
    "modules called by keyword": lambda: Wrapped(
        lambda net, x: net[4](F.softplus(input=net[2](input=net[0](x))).flatten(1))
    ),
    "fx": lambda: torch.fx.symbolic_trace(network()),
    "channels_last": lambda: network().to(memory_format=torch.channels_last),
    "silu in place": lambda: network(lambda: nn.SiLU(inplace=True)),
    "mish in place": lambda: network(lambda: nn.Mish(inplace=True)),
    "relu in place": lambda: network(lambda: nn.ReLU(inplace=True)),
    "relu6 in place": lambda: network(lambda: nn.ReLU6(inplace=True)),
    "hardswish in place": lambda: network(lambda: nn.Hardswish(inplace=True)),
    "F.silu in place": lambda: Wrapped(lambda net, x: net[4](F.silu(net[0](x), inplace=True).flatten(1))),
    "compiled model": lambda: compiled("model"),
    "compiled in place": lambda: compiled("in place"),
    "compiled forward": lambda: compiled("forward"),
}


def exact_curvature(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> float:
    """Return ‖∇²f‖₂ of one image from a dense Hessian by torch's double backward."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x[None]), label[None])

    with differentiable_eval(model) as ready:  # compiled models run as written
        del ready
        matrix = torch.autograd.functional.hessian(loss, image).reshape(36, 36)
    return float(torch.linalg.eigvalsh(matrix).abs().max())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("name", [*ESCAPES, *FOLLOWED])
def test_curvature_is_that_of_plain_autograd_however_the_model_is_wrapped(name, images):
    model = {**ESCAPES, **FOLLOWED}[name]()
    place = next(
        (p.device for p in model.parameters()), "cpu"
    )  # DataParallel takes its network to a GPU, if there is one
    x, y = (t.to(place) for t in images)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        table = curvature(model, x, y, steps=36, terms=False)
    said = [str(w.message) for w in seen if "fast second derivatives" in str(w.message)]
    assert len(said) == (name in ESCAPES)
    assert not any("\n" in line for line in said)
    assert table["curvature_fast_engine"].tolist() == [name not in ESCAPES] * 6
    tolerance = 0.05 if name == "autocast inside" else 2e-3
    for i in range(2):
        assert float(table["hessian_norm"][i]) == pytest.approx(exact_curvature(model, x[i], y[i]), rel=tolerance)
    assert (table["curvature"] > 1e-3).all()


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Mish])
def test_activations_in_place_have_the_numbers_of_those_that_are_not(activation, images):
    for evaluation, settings in ((curvature, {}), (stability, {"radius": [0.1]}), (bounds, {"radius": [0.1]})):
        plain, edited = (
            evaluation(network(lambda p=p: activation(inplace=p)), *images, **settings) for p in (False, True)
        )
        for column, values in plain.items():
            if isinstance(values, torch.Tensor) and values.is_floating_point():
                torch.testing.assert_close(edited[column], values, rtol=1e-3, atol=1e-6, equal_nan=True, msg=column)
            elif not isinstance(values, torch.Tensor):
                assert edited[column] == values


def test_a_model_that_cannot_be_differentiated_twice_is_named_in_one_line(images):
    model = Wrapped(lambda net, x: checkpoint(net, x, use_reentrant=True))
    with pytest.raises(
        BenchError, match=r"model Wrapped: expected one that can be differentiated twice, got: "
    ) as seen:
        curvature(model, *images)
    assert "\n" not in str(seen.value)


def test_registered_networks_keep_the_fast_engine_and_the_random_stream(model, images):
    x, y = images
    state = torch.get_rng_state()
    with differentiable_eval(model) as ready, checked_engine(ready, x, y) as fast:
        assert fast
    assert torch.equal(torch.get_rng_state(), state)
