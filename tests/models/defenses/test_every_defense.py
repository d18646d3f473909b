"""What holds for every defense on every backbone: it builds, trains, is saved, copied and repeated."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bench.core.registry import defenses
from bench.models.backbones import BACKBONES
from bench.models.layers import CenteredSoftplus, LipschitzBatchNorm2d, Softplus, SpectralNormConv2d, layer_statistics
from bench.training.hooks import finalize
from bench.training.losses import bound_loss
from bench.training.optimization import parameter_groups

NAMES = [
    "adversarial_training", "cayley", "common_gamma", "cure", "gradreg", "lcnn", "lcnn_adversarial", "lcnn_gradreg",
    "local_linearity", "parseval", "smooth_gradreg", "softplus_wd", "spectral_norm", "standard", "trades", "vanilla",
]  # fmt: skip
# Parameters that escape weight decay.
FREE = {
    **{name: {"log_beta", "log_gamma"} for name in ("lcnn", "lcnn_adversarial", "lcnn_gradreg", "spectral_norm")},
    "common_gamma": {"log_beta"},
}
SHAPE, CLASSES = (1, 8, 8), 10


def build(name: str, backbone: str = "convnet-w4", shape=SHAPE, **changed) -> nn.Module:
    torch.manual_seed(0)
    return defenses.get(name).function(CLASSES, shape, backbone, **changed)


def step(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, **changed) -> dict[str, torch.Tensor]:
    """Run one loss of the defense and its backward pass."""
    entry = defenses.get(name)
    terms = bound_loss(entry.recipe.loss, {**entry.hyperparameters, **changed})(model, x, y)
    sum(terms.values()).backward()
    return terms


def batch(n: int = 12, shape=SHAPE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, *shape, generator=generator), torch.arange(n) % CLASSES


def trained(name: str, steps: int = 3) -> nn.Module:
    """Return a network after a few steps of its own objective, finalised."""
    model, (x, y) = build(name), batch()
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        step(name, model, x, y)
        optimizer.step()
    finalize(model)
    return model


def test_every_shipped_defense_is_registered_with_paper_and_citation():
    shipped = [d for d in defenses if d.function.__module__.startswith("bench.models.defenses.")]
    assert [d.name for d in shipped] == sorted(
        [*NAMES, "smoothing", "torchlip"]
    )  # randomised; another library's layers, which do not pickle
    for entry in shipped:
        assert entry.bibtex.startswith("@")
        assert "in_shape" in entry.function.__annotations__
        assert len(entry.description.splitlines()) > 2


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_one_step_gives_every_parameter_a_finite_gradient(name, backbone):
    shape = (2, 1, 1) if backbone == "mlp" else (3, 8, 8)
    model = build(name, f"{backbone}-w4", shape)
    x, y = batch(shape=shape)
    terms = step(name, model, x, y)
    assert all(t.shape == () and torch.isfinite(t) for t in terms.values())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert model.eval()(x).shape == (12, CLASSES)


@pytest.mark.parametrize(
    "changed",
    [
        {"conv_spectral_norm": False}, {"lipschitz_bn": False}, {"learn_beta": False}, {"centered": False},
        {"authors_sigma_size": True}, {"beta0": 1.0, "gamma0": 2.0}, {"lambda_beta": 0.0, "lambda_gamma": 0.0},
    ],
)  # fmt: skip
def test_each_ablation_of_lcnn_takes_away_what_it_says(changed):
    model, (x, y) = build("lcnn", **changed), batch()
    kinds = {
        kind: [m for m in model.modules() if isinstance(m, kind)]
        for kind in (SpectralNormConv2d, LipschitzBatchNorm2d, CenteredSoftplus)
    }
    assert len(kinds[SpectralNormConv2d]) == 3 * changed.get("conv_spectral_norm", True)
    assert len(kinds[LipschitzBatchNorm2d]) == 3 * changed.get("lipschitz_bn", True)
    activations = kinds[CenteredSoftplus]
    assert len(activations) == 3
    assert all(("log_beta" in a._parameters) == changed.get("learn_beta", True) for a in activations)
    assert all(a.centered == changed.get("centered", True) for a in activations)
    assert all(a.beta.item() == pytest.approx(changed.get("beta0", 5.0) + 1e-3) for a in activations)
    terms = step("lcnn", model, x, y, **changed)
    assert ("beta" in terms) == changed.get("learn_beta", True)
    assert ("gamma" in terms) == changed.get("lipschitz_bn", True)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_standard_is_the_authors_baseline_and_vanilla_is_the_textbook():
    standard, vanilla = build("standard", "resnet18-w4"), build("vanilla", "resnet18-w4")
    assert {m.fixed_beta for m in standard.modules() if isinstance(m, Softplus)} == {1e3}
    assert not any(m.affine for m in standard.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.affine for m in vanilla.modules() if isinstance(m, nn.BatchNorm2d))
    assert hasattr(standard.fc, "parametrizations")
    assert type(vanilla.fc) is nn.Linear
    assert (standard.blocks[0].scale, vanilla.blocks[0].scale) == (pytest.approx((0.5**0.5, 0.5)), None)
    for model in (standard, vanilla):
        assert not any(isinstance(m, SpectralNormConv2d | LipschitzBatchNorm2d) for m in model.modules())
    assert sum(isinstance(m, nn.ReLU) for m in vanilla.modules()) == 17


@pytest.mark.parametrize("name", NAMES)
def test_exactly_log_beta_and_log_gamma_escape_weight_decay(name):
    model = build(name)
    groups = parameter_groups(model, 5e-4)
    free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    names = {key.rpartition(".")[2] for key, p in model.named_parameters() if id(p) in free}
    assert names == FREE.get(name, set())
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_network_gives_the_same_bits(name, tmp_path):
    model = trained(name)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(99)
    fresh = defenses.get(name).function(CLASSES, SHAPE, "convnet-w4")
    fresh.load_state_dict(load_file(tmp_path / "w.safetensors"))
    fresh.eval()
    x, _ = batch(256)
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))
        one_by_one = torch.cat([fresh(image[None]) for image in x])
    torch.testing.assert_close(one_by_one, model(x).detach(), rtol=0, atol=1e-5)
    assert layer_statistics(fresh) == layer_statistics(model)


@pytest.mark.parametrize("name", NAMES)
def test_eval_mode_repeats_exactly_and_changes_nothing(name):
    model, (x, _) = trained(name), batch()
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(model(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin_of", [pickled, saved, copy.deepcopy])
@pytest.mark.parametrize("backbone", ["convnet", "mlp", "resnet18"])
@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_or_copied_network_is_the_network_before_and_after_a_training_step(name, backbone, twin_of):
    shape = (2, 1, 1) if backbone == "mlp" else (3, 8, 8)
    model, (x, y) = build(name, f"{backbone}-w4", shape), batch(shape=shape)
    for _ in range(2):
        twin = twin_of(model)
        assert torch.equal(twin.eval()(x), model.eval()(x))
        for network in (model, twin):
            network.train().zero_grad()
            torch.manual_seed(1)
            step(name, network, x, y)
            torch.optim.SGD(parameter_groups(network, 5e-4), lr=0.1).step()
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), model.buffers(), strict=True))


def test_finalised_lcnn_keeps_its_promises():
    model = trained("lcnn", steps=10)
    assert layer_statistics(model)["max_sigma_error"] < 1e-5
    for module in model.modules():
        if isinstance(module, LipschitzBatchNorm2d):
            assert module.gain() <= module.gamma * (1 + 1e-6)


@pytest.mark.parametrize("name", ["standard", "lcnn"])
def test_per_example_gradients_and_hessians_with_torch_func(name):
    model, (x, y) = trained(name).double(), batch(3)

    def loss(image, label):
        return nn.functional.cross_entropy(model(image[None]), label[None])

    x = x.double()
    each = torch.func.vmap(torch.func.grad(loss))(x, y)
    image = x.clone().requires_grad_()
    together = nn.functional.cross_entropy(model(image), y, reduction="sum")
    (gradient,) = torch.autograd.grad(together, image, create_graph=True)
    torch.testing.assert_close(each, gradient.detach())
    v = torch.randn_like(x)
    (product,) = torch.autograd.grad((gradient * v).sum(), image)
    reverse = torch.func.vmap(lambda x, y, v: torch.func.vjp(lambda x: torch.func.grad(loss)(x, y), x)[1](v)[0])(
        x, y, v
    )
    torch.testing.assert_close(reverse, product)


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="compiled by torch 2.11, σ is not stored")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
@pytest.mark.parametrize("training", [True, False])
def test_lcnn_compiles_into_one_graph(training):
    torch._dynamo.reset()
    model, (x, y) = build("lcnn").train(training), batch()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for network in (compiled, twin):
        nn.functional.cross_entropy(network(x), y).backward()
    for (key, got), want in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, msg=key)
    for (key, got), want in zip(model.named_buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(got, want, msg=key)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
@pytest.mark.parametrize("name", ["standard", "lcnn"])
def test_compiled_code_agrees_with_eager(name):
    torch._dynamo.reset()
    model, (x, y) = build(name), batch()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True)
    for network in (compiled, twin):
        nn.functional.cross_entropy(network(x), y).backward()
    for (key, got), want in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-3, atol=1e-5, msg=key)
