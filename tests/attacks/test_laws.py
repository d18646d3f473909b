"""What must hold for every attack, model, image, norm and budget."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bench.attacks.autoattack import autoattack
from bench.attacks.core import balls, randomness
from bench.attacks.pgd import pgd
from tests.attacks.known import ALL, Linear, flags, size

BOXED = [name for name in ALL if name != "pgd_released"]  # the released helper does not clip, and says so
FEW = {
    "pgd": {"steps": 8}, "apgd": {"steps": 10}, "apgd-targeted": {"steps": 10}, "fab": {"steps": 8},
    "square": {"n_queries": 30}, "autoattack": {"steps": 8, "n_queries": 30}, "noise": {"draws": 10},
    "autoattack_raced": {"steps": 8, "n_queries": 30}, "fmn": {"steps": 10}, "hopskipjump": {"n_queries": 150},
}  # fmt: skip
LAW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def problems(draw):
    """A random model (linear, or with a hidden layer), images with many pixels at the bounds, and labels."""
    classes, side = draw(st.sampled_from([2, 3, 4, 10])), draw(st.sampled_from([1, 2, 5]))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(draw(st.integers(1, 6)), draw(st.sampled_from([1, 3])), side, side, generator=generator)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.3, x.round(), x)
    features = x[0].numel()
    if draw(st.booleans()):
        model: nn.Module = Linear.random(classes, features, seed)
    else:
        model = nn.Sequential(Linear.random(8, features, seed), nn.Tanh(), Linear.random(classes, 8, seed + 1))
    right = draw(st.booleans())
    y = model(x).argmax(1) if right else torch.randint(classes, (len(x),), generator=generator)
    return model, x, y


@pytest.mark.parametrize("name", ALL)
@LAW
@given(problem=problems(), norm=st.sampled_from(["l2", "linf"]), eps=st.floats(0, 2), seed=st.integers(0, 2**40))
def test_points_stay_in_ball_and_box(name, problem, norm, eps, seed):
    model, x, y = problem
    eps = min(eps, 1.0) if norm == "linf" else eps
    found = ALL[name](model, x, y, eps=eps, norm=norm, seed=seed, **FEW.get(name, {}))
    assert found.shape == x.shape
    assert (size(found - x, norm) <= eps * (1 + 1e-5) + 1e-12).all()
    if name in BOXED:
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", ALL)
def test_nothing_to_do_is_no_error(name, norm):
    """No images at all, and images that the first steps break, so that later steps and stages have none left."""
    model, x = Linear.random(4, 12, 0), torch.rand(5, 3, 2, 2)
    y = model(x).argmax(1)
    assert ALL[name](model, x[:0], y[:0], eps=0.3, norm=norm, seed=0, **FEW.get(name, {})).shape == (0, 3, 2, 2)
    far = ALL[name](model, x, y, eps=50.0, norm=norm, seed=0, **FEW.get(name, {}))
    if name not in ("noise", "square", "pgd_released", "hopskipjump"):
        assert not flags(model, far, y).any()


@pytest.mark.parametrize("name", [n for n in BOXED if n != "fgsm"])
@LAW
@given(problem=problems(), norm=st.sampled_from(["l2", "linf"]), eps=st.floats(0, 1))
def test_no_attack_mends_a_misclassified_image(name, problem, norm, eps):
    model, x, y = problem
    robust = flags(model, ALL[name](model, x, y, eps=eps, norm=norm, **FEW.get(name, {})), y)
    assert not (robust & ~flags(model, x, y)).any()


@LAW
@given(problem=problems(), norm=st.sampled_from(["l2", "linf"]), eps=st.floats(0.01, 1))
def test_autoattack_is_no_weaker_than_any_member(problem, norm, eps):
    model, x, y = problem
    robust = flags(model, autoattack(model, x, y, eps=eps, norm=norm, steps=15, n_queries=60), y)
    for member, extra in {
        "apgd": {"steps": 15}, "apgd-targeted": {"steps": 15}, "fab": {"steps": 15}, "square": {"n_queries": 60}
    }.items():  # fmt: skip
        assert not (robust & ~flags(model, ALL[member](model, x, y, eps=eps, norm=norm, **extra), y)).any(), member


@pytest.mark.parametrize("name", ["pgd", "apgd", "fab", "autoattack"])
@LAW
@given(seed=st.integers(0, 2**31), norm=st.sampled_from(["l2", "linf"]))
def test_a_larger_budget_breaks_no_fewer_of_a_linear_model(name, seed, norm):
    model = Linear.random(3, 20, seed)
    x = 0.4 + 0.2 * torch.rand(20, 1, 20, 1, generator=torch.Generator().manual_seed(seed))
    y = model(x).argmax(1)
    before = torch.ones(20, dtype=torch.bool)
    for eps in (0.01, 0.05, 0.2):
        robust = flags(model, ALL[name](model, x, y, eps=eps, norm=norm, **FEW[name]), y)
        assert not (robust & ~before).any()
        before = robust


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", [n for n in ALL if n != "autoattack"])
def test_results_do_not_depend_on_the_batch(name, norm):
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(Linear.random(8, 50, 1), nn.Tanh(), Linear.random(5, 8, 2)).double()
    x = torch.rand(7, 2, 5, 5, generator=generator, dtype=torch.float64)
    y = model(x).argmax(1)
    attack = ALL[name]
    whole = attack(model, x, y, eps=0.3 if norm == "l2" else 0.03, norm=norm)
    order = torch.tensor([4, 1, 6, 0, 5, 3, 2])
    shuffled = attack(model, x[order], y[order], eps=0.3 if norm == "l2" else 0.03, norm=norm)
    alone = torch.cat([
        attack(model, x[i : i + 1], y[i : i + 1], eps=0.3 if norm == "l2" else 0.03, norm=norm) for i in range(7)
    ])  # fmt: skip
    assert torch.allclose(shuffled, whole[order], atol=1e-7)
    assert torch.allclose(alone, whole, atol=1e-7)


def test_another_seed_draws_another_start():
    model, x = Linear.random(3, 16, 0), torch.full((2, 1, 4, 4), 0.5)
    y = model(x).argmax(1)
    starts = []
    for seed in (0, 1):
        trace = {}
        ALL["pgd"](model, x, y, eps=0.01, steps=0, losses=["ce"], seed=seed, trace=trace)
        starts.append(trace["last"])
    one, other = starts
    assert not torch.equal(one, other)
    assert torch.equal(one[0], one[1]), "equal images draw equal starts, wherever they are"


class Watched(nn.Module):
    """A net with batch norm and dropout, to be left as it was found."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4 * 36, 5)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu()).flatten(1))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(name, training):
    model = Watched().train(training)
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    model.conv.weight.grad = torch.full_like(model.conv.weight, 7.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(4, 1, 6, 6)
    kept, rng = x.clone(), torch.get_rng_state()
    found = ALL[name](model, x, torch.tensor([0, 1, 2, 3]), eps=0.1)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert not found.requires_grad
    assert [m.training for m in (model, model.conv, model.norm, model.drop)] == [training, training, False, training]
    assert not model.head.bias.requires_grad
    assert model.head.weight.requires_grad
    assert (model.conv.weight.grad == 7).all()
    assert model.conv.bias.grad is None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_flags_are_put_back_after_an_error():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return torch.full((len(x), 3), torch.nan) * self.weight

    model = Broken().train()
    with pytest.raises(FloatingPointError):
        pgd(model, torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1)
    assert model.training
    assert model.weight.requires_grad


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_are_uniform_in_the_ball(norm):
    x = torch.zeros(4000, 1, 1, 3)
    keys = randomness.example_keys(torch.arange(4000.0)[:, None], 0)
    delta = balls.random_perturbation(x, keys, 0, 2.0, norm)
    radius = size(delta, norm) / 2
    assert radius.max() <= 1
    share = (radius**3).sort().values  # volume inside the radius is uniform on [0, 1]
    assert (share - torch.linspace(0, 1, 4000)).abs().max() < 1.63 / 4000**0.5  # Kolmogorov, 1 %
    assert delta.flatten(1).mean(0).abs().max() < 0.06


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_points_on_the_sphere_have_exactly_the_radius(norm):
    x = torch.rand(50, 3, 4, 4)
    delta = balls.sphere_perturbation(x, randomness.example_keys(x, 0), 0, 0.3, norm)
    assert torch.allclose(size(delta, norm), torch.tensor(0.3, dtype=torch.float64), rtol=1e-5)


def test_tiny_gradients_keep_their_direction():
    tiny = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e30, 4e30]])
    assert torch.allclose(balls.ascent(tiny, "l2"), torch.tensor([[0.6, 0.8], [0, 0], [0.6, 0.8]]))
