"""The folded network: the model's own answers up to rounding, found wherever it can be, and no trace left behind."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from bench.attacks.autoattack import autoattack
from bench.attacks.core import search
from bench.attacks.core.folding import fold_constants
from bench.attacks.pgd import pgd
from bench.core import registry
from bench.core.torch_state import frozen_eval
from bench.measuring.passes import counted
from bench.models.layers import Softplus
from tests.attacks.known import flags


def built(name, backbone="convnet", shape=(1, 8, 8)):
    """A shipped defense whose norms have seen images."""
    entry = registry.defenses.get(name)
    torch.manual_seed(0)
    model = entry.function(10, shape, backbone, **entry.hyperparameters)
    for _ in range(3):
        model.train()(torch.rand(32, *shape) ** 2)
    return model.eval()


class Small(nn.Module):
    """A convolution and a norm, with room for what makes folding impossible."""

    def __init__(self, body=None):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.body = body or (lambda model, x: model.norm(model.conv(x)))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.body(self, x).relu().mean((2, 3)))


def hidden(model, x):
    with torch.no_grad():  # a traced copy would let the gradient through
        return model.norm(model.conv(x))


def descends(model, x):
    with torch.enable_grad():  # a traced copy would have no graph here where the attack asks for none
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(leaf.square().sum(), leaf)
    return model.norm(model.conv(x - 0.1 * gradient))


UNFIT = {
    "calls autograd": descends,
    "asks a tensor": lambda model, x: model.norm(model.conv(x)) if x.sum() > 0 else model.conv(x),
    "asks for a length": lambda model, x: model.norm(model.conv(x.view(len(x), 1, 8, 8))),
    "hides its gradient": hidden,
    "counts its calls": lambda model, x: model.norm(model.conv(x)) + model.calls,
    "draws": lambda model, x: model.norm(model.conv(x)) + torch.randn(1, 4, 6, 6),
    "norm twice behind one convolution": lambda model, x: model.norm(h := model.conv(x)) + h,
    "convolution twice": lambda model, x: model.norm(model.conv(x)) + model.norm(model.conv(1 - x)),
    "norm in train mode": lambda model, x: model.norm.train()(model.conv(x)),
}


@pytest.mark.parametrize(
    ("name", "backbone", "shape"),
    [("vanilla", "convnet", (1, 8, 8)), ("standard", "convnet", (1, 8, 8)), ("lcnn", "convnet", (1, 8, 8)),
     ("lcnn", "resnet18-w4", (3, 16, 16)), ("standard", "vgg11-w4", (3, 16, 16))],
)  # fmt: skip
def test_the_folded_network_is_the_model_up_to_rounding(name, backbone, shape):
    model, x = built(name, backbone, shape), torch.rand(20, *shape)
    with frozen_eval(model):
        fast = fold_constants(model, x, 100)
        assert fast is not model
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules()), "every norm here can be folded"
        for objective in (lambda z: z.logsumexp(1), lambda z: z[:, 0]):
            z, _, grad = search.gradient(model, x, objective)
            fast_z, _, fast_grad = search.gradient(fast, x, objective)
            assert (z - fast_z).abs().max() <= 1e-5 * z.abs().max()
            assert (grad - fast_grad).abs().max() <= 1e-3 * grad.abs().max()


@pytest.mark.parametrize(("side", "last"), [(16, True), (8, False)])
def test_large_images_are_channels_last_inside_and_nowhere_else(side, last):
    model, x = built("standard", "convnet", (3, side, side)), torch.rand(4, 3, side, side)
    seen = []
    with frozen_eval(model):
        fast = fold_constants(model, x, 100)
        for layer in fast.modules():
            if isinstance(layer, Softplus):
                layer.register_forward_hook(lambda module, given, output: seen.append(output))
        _, _, grad = search.gradient(fast, x, lambda z: z[:, 0])
    assert [y.is_contiguous(memory_format=torch.channels_last) for y in seen] == 3 * [last]
    assert grad.is_contiguous()
    assert x.is_contiguous()


@pytest.mark.parametrize("why", UNFIT)
def test_a_model_that_cannot_be_folded_is_attacked_as_it_is(why):
    model, x = Small(UNFIT[why]).eval(), torch.rand(4, 1, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    with frozen_eval(model):
        fast = fold_constants(model, x, 100)
    assert fast is model
    assert torch.equal(torch.get_rng_state(), rng)
    if why != "norm in train mode":  # its own doing
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_short_attacks_and_watched_layers_are_left_alone():
    model, x = Small().eval(), torch.rand(4, 1, 8, 8)
    with frozen_eval(model):
        assert fold_constants(model, x, 3) is model
        fast = fold_constants(model, x, 100)
        assert isinstance(fast, fx.GraphModule)
        assert fold_constants(fast, x, 100) is fast
        handle = model.conv.register_forward_hook(lambda layer, inputs, output: output.clamp(-1, 1))
        assert fold_constants(model, x, 100) is model
        handle.remove()
        assert fold_constants(model, x, 100) is not model


def test_hooks_on_the_model_itself_see_every_pass_of_the_folded_one(digits, nets, monkeypatch):
    """The same passes are counted, the same verdicts come out, and the model is left as it was."""
    _, _, x, y = digits
    x, y, model = x[:20], y[:20], nets["robust"]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for attack, settings in ((pgd, {}), (autoattack, {"steps": 20, "n_queries": 40})):
        with counted(model) as fast:
            found = attack(model, x, y, eps=0.5, **settings)
        with monkeypatch.context() as patch:
            patch.setattr("bench.attacks.core.folding.MIN_PASSES", 10**9)
            with counted(model) as slow:
                plain = attack(model, x, y, eps=0.5, **settings)
        assert fast.forwards > 100
        assert abs(fast.forwards - slow.forwards) <= 0.02 * slow.forwards
        assert abs(fast.backwards - slow.backwards) <= 0.02 * slow.backwards
        assert torch.equal(flags(model, found, y), flags(model, plain, y))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert F.cross_entropy(model(x), y) < 1, "the net is trained"
