"""Attacks against models whose exact robustness is known."""

import math

import pytest
import torch
from torch import nn

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.core import balls
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.square_windows import two_bumps, window_side
from bench.attacks.fab import fab, to_hyperplane
from bench.attacks.fmn import fmn
from bench.attacks.noise import noise
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.measuring.passes import counted
from tests.attacks.known import ALL, STRONG, Linear, flags, size


def exact_distance(model, x, y, norm, box):
    """Return each example's distance to the nearest other class of a linear model, by bisection in float64.

    The smallest move onto w·δ = gap is clip(x + λv) − x with v = w or sign(w): its length grows with λ.
    """
    weight, logits = model.weight.detach().double(), model(x).detach().double()
    flat = x.double().flatten(1)
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for target in range(logits.shape[1]):
        w = weight[target] - weight[y]
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, target]
        v = w if norm == "l2" else w.sign()
        low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 1e6, dtype=torch.float64)

        def move(step, v=v):
            moved = flat + step[:, None] * v
            return (moved.clamp(0, 1) if box else moved) - flat

        for _ in range(200):
            middle = (low + high) / 2
            enough = (w * move(middle)).sum(1) >= gap
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        reached = (w * move(high)).sum(1) >= gap - 1e-9
        length = move(high).norm(dim=1) if norm == "l2" else move(high).abs().amax(1)
        nearest = torch.where((y != target) & reached, torch.minimum(nearest, length), nearest)
    return nearest


def middle(exact):
    """Return a budget between the two middle distances, so that no example lies on the verge."""
    ordered = exact.sort().values
    return float(ordered[len(exact) // 2 - 1 : len(exact) // 2 + 1].mean())


def problem(classes, features, *, box, seed=0, n=40):
    """Return a linear model, images (mid-grey if the box is not to matter) and their predicted classes."""
    model = Linear.random(classes, features, seed)
    x = torch.rand(n, 1, features, 1, generator=torch.Generator().manual_seed(seed + 1))
    x = x.round() * 0.9 + 0.05 * x if box else 0.45 + 0.1 * x
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", STRONG)
def test_linear_model_without_box_is_broken_exactly_within_its_margin(name, classes, norm):
    model, x, y = problem(classes, 30, box=False)
    exact = exact_distance(model, x, y, norm, box=False)
    eps = middle(exact)
    assert eps < 0.4
    found = ALL[name](model, x, y, eps=eps, norm=norm)
    robust = flags(model, found, y)
    share = 0.9 if name == "apgd" and classes > 2 else 0.99  # cross-entropy does not head for the nearest class
    assert not robust[exact < share * eps].any(), "missed an example that one exact step breaks"
    assert robust[exact > 1.001 * eps].all(), "claims what no perturbation can do"


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("name", "share"), [("pgd", 0.93), ("apgd", 0.93), ("apgd-targeted", 0.93), ("fab", 0.99)])
def test_linear_model_with_active_box(name, share, norm):
    model, x, y = problem(5, 60, box=True)
    exact = exact_distance(model, x, y, norm, box=True)
    assert (exact > 1.02 * exact_distance(model, x, y, norm, box=False)).float().mean() > 0.5, "the box must matter"
    eps = middle(exact)
    robust = flags(model, ALL[name](model, x, y, eps=eps, norm=norm), y)
    assert not robust[exact < share * eps].any()
    assert robust[exact > 1.001 * eps].all()


# By what they are: random search, decisions alone, a step that the source keeps too short, and other libraries' steps.
SHORT_OF_EXACT = {"noise", "square", "pgd_released", "hopskipjump"}


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in SHORT_OF_EXACT])
def test_every_attack_breaks_all_images_of_a_linear_model_just_beyond_their_distance(name, norm):
    classes = 3 if name == "apgd-targeted" else 2
    model, x, y = problem(classes, 64, box=False, n=8)
    model.weight.data[2:] = 0.0
    model.bias.data[2:] = -1e3
    x = x.reshape(-1, 1, 8, 8)
    exact = exact_distance(model, x, y, norm, box=False)
    for image, label, distance in zip(x, y, exact, strict=True):
        beyond = 1.02 if name == "fab" else 1.002  # three halvings of its last move, 5 % too long
        found = ALL[name](model, image[None], label[None], eps=beyond * float(distance), norm=norm)
        assert not flags(model, found, label[None]).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_breaks_a_linear_model_just_beyond_its_distance_where_the_box_matters(random_start, norm):
    model, x, y = problem(2, 64, box=True, n=20)
    exact = exact_distance(model, x, y, norm, box=True)
    assert (exact > 1.02 * exact_distance(model, x, y, norm, box=False)).any(), "the box must matter"
    for image, label, distance in zip(x, y, exact, strict=True):
        found = pgd(model, image[None], label[None], eps=1.002 * float(distance), norm=norm, random_start=random_start)
        assert not flags(model, found, label[None]).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_farthest_point_is_the_best_of_ball_and_box(norm):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 1, 4, 4, generator=generator).round(decimals=1)  # many at the bounds
    gradient = torch.randn(50, 1, 4, 4, generator=generator)
    gradient[0] = 0
    for eps in (0.0, 0.01, 0.3, 1.0, 9.0):
        point = balls.farthest(x, gradient, eps, norm)
        assert point.min() >= 0
        assert point.max() <= 1
        assert (size(point - x, norm) <= eps * (1 + 1e-6)).all()
        best = (gradient * (point - x)).flatten(1).sum(1)
        for _ in range(300):
            other = balls.into(x, x + eps * 3 * torch.randn(x.shape, generator=generator), eps, norm)
            assert ((gradient * (other - x)).flatten(1).sum(1) <= best + 1e-5).all()
        corner = torch.where(gradient > 0, 1.0, torch.where(gradient < 0, 0.0, x))
        on_sphere = (size(point - x, norm) >= eps * 0.999) | (point == corner).flatten(1).all(1)
        assert on_sphere[1:].all()
        assert torch.equal(point[0], x[0])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_square_comes_near_the_exact_answer_by_queries_alone(norm):
    model, x, y = problem(4, 36, box=False)
    x = x.reshape(-1, 1, 6, 6)
    exact = exact_distance(model, x, y, norm, box=False)
    eps = middle(exact)
    robust = flags(model, square(model, x, y, eps=eps, norm=norm, n_queries=2000), y)
    assert not robust[exact < 0.7 * eps].any()
    assert robust[exact > 1.001 * eps].all()


class Ball(nn.Module):
    """Class 0 inside the sphere of radius r around c, class 1 outside: the distance of x is r − ‖x − c‖."""

    def __init__(self, center, radius):
        super().__init__()
        self.center, self.radius = center, radius

    def forward(self, x):
        outside = (x - self.center).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([-outside, outside], 1)


@pytest.mark.parametrize("name", STRONG)
def test_quadratic_two_class_problem_with_known_minimum_norm(name):
    center = torch.full((1, 4, 4), 0.5)
    model = Ball(center, 0.3)
    direction = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    direction /= direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x = center + direction * torch.linspace(0.02, 0.28, 50).view(-1, 1, 1, 1)
    y = torch.zeros(50, dtype=torch.long)
    exact = 0.3 - (x - center).flatten(1).norm(dim=1)
    robust = flags(model, ALL[name](model, x, y, eps=0.15, norm="l2"), y)
    share = 0.93 if name == "pgd" else 0.99  # its path is 2.5 radii; the way round from a start behind x is π
    assert not robust[exact < share * 0.15].any()
    assert robust[exact > 1.001 * 0.15].all()


def test_fab_finds_the_smallest_perturbation_itself():
    model, x, y = problem(6, 40, box=False)
    exact = exact_distance(model, x, y, "l2", box=False)
    trace = {}
    fab(model, x, y, eps=1e-6, norm="l2", trace=trace)
    assert (trace["nearest"].double() / exact).max() < 1.02
    assert (trace["nearest"].double() / exact).min() > 0.9999


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("classes", "box"), [(2, False), (6, False), (2, True), (6, True)])
def test_fmn_finds_the_distance_of_a_linear_model(classes, box, norm):
    model, x, y = problem(classes, 40, box=box)
    exact = exact_distance(model, x, y, norm, box=box)
    trace = {}
    found = fmn(model, x, y, eps=10.0, norm=norm, trace=trace)
    ratio = trace["nearest"].double() / exact
    assert ratio.min() > 0.9999
    assert ratio.median() < 1.01
    # Where the box bends the way, the class of the largest logit is not always the nearest one.
    assert ratio.max() < (1.3 if box and classes > 2 else 1.01)
    assert not flags(model, found, y).any()
    assert torch.allclose(size(found - x, norm).float(), trace["nearest"], rtol=1e-5), "the point is the nearest one"


def test_fmn_says_nothing_where_there_is_nothing():
    model, x = Linear(torch.zeros(3, 9), torch.tensor([1.0, 0.0, 0.0])), torch.rand(4, 1, 3, 3)
    trace = {}
    found = fmn(model, x, torch.tensor([0, 0, 0, 1]), eps=0.5, trace=trace)
    assert torch.equal(found, x)
    assert trace["nearest"].isnan().tolist() == [True, True, True, False]
    assert trace["nearest"][3] == 0, "misclassified without a perturbation"


@pytest.mark.parametrize("draws", [0, 3])
def test_fmn_counts_the_passes_of_each_image(draws):
    """Of the network itself, also where an answer is the mean of several draws; a misclassified image takes one."""
    model, x, y = problem(6, 40, box=True)
    y = torch.where(torch.arange(len(y)) < 2, (y + 1) % 6, y)
    model, trace = RandomisedModel(model, draws=draws).eval() if draws else model, {}
    with counted(model) as passes:
        fmn(model, x, y, eps=1.0, steps=4, trace=trace)
    assert int(trace["forwards"].sum()) == passes.forwards
    assert int(trace["backwards"].sum()) == passes.backwards > 0
    if not draws:
        assert trace["forwards"].tolist() == [1, 1] + [6] * 38
        assert trace["backwards"].tolist() == [0, 0] + [5] * 38


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hyperplane_projection_is_the_smallest_move(norm):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 12, generator=generator, dtype=torch.float64).round(decimals=1)  # many at the bounds
    w = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    w[:, :3] = 0
    inside = torch.rand(200, 12, generator=generator, dtype=torch.float64)
    offset = (w * inside).sum(1)  # the plane meets the box
    move = to_hyperplane(points, w, offset, norm)
    end = points + move
    assert end.min() >= 0
    assert end.max() <= 1
    assert torch.allclose((w * end).sum(1), offset, atol=1e-9)
    length = size(move, norm)
    for _ in range(300):  # no random point of plane and box is nearer
        other = torch.rand(200, 12, generator=generator, dtype=torch.float64)
        miss = (offset - (w * other).sum(1)) / w.square().sum(1)
        other = other + miss[:, None] * w
        legal = (other.min(1).values >= 0) & (other.max(1).values <= 1)
        assert (size(other - points, norm)[legal] >= length[legal] - 1e-9).all()


def test_hyperplane_that_misses_the_box_is_approached_as_far_as_the_box_goes():
    points, w = torch.full((1, 3), 0.5), torch.tensor([[1.0, -2.0, 0.0]])
    end = points + to_hyperplane(points, w, torch.tensor([9.0]), "l2")
    assert torch.equal(end, torch.tensor([[1.0, 0.0, 0.5]]))


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 100])
@pytest.mark.parametrize("version", ["standard", "rand"])
def test_autoattack_at_every_number_of_classes(classes, version):
    model, x, y = problem(classes, 25, box=False, n=12)
    x = x.reshape(-1, 1, 5, 5)
    exact = exact_distance(model, x, y, "l2", box=False)
    eps = middle(exact)
    trace = {}
    found = autoattack(model, x, y, eps=eps, version=version, steps=20, n_queries=50, eot_iter=2, trace=trace)
    robust = flags(model, found, y)
    share = 0.98 if version == "standard" else 0.8  # "rand" has no targeted member
    assert not robust[exact < share * eps].any()
    assert [stage == "" for stage in trace["broken_by"]] == robust.tolist()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_eps_zero_changes_nothing(name, norm):
    model, x, y = problem(4, 25, box=True, n=5)
    x = x.reshape(-1, 1, 5, 5)
    assert torch.equal(ALL[name](model, x, y, eps=0.0, norm=norm), x)


@pytest.mark.parametrize("name", ALL)
def test_one_pixel_and_a_batch_of_one(name):
    model = Linear(torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.5, 0.5]))
    x = torch.tensor([0.6]).view(1, 1, 1, 1)
    y = torch.tensor([0])
    assert not flags(model, ALL[name](model, x, y, eps=0.2, norm="linf"), y).any()
    assert flags(model, ALL[name](model, x, y, eps=0.09, norm="linf"), y).all()


class Shell(nn.Module):
    """Wrong only where the mean pixel lies in a thin shell, while the gradient points straight through it.

    Forward and gradient are told apart on purpose: an attack that returns its last point walks past the shell.
    """

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        value = torch.where((mean > 0.53) & (mean < 0.56), 1.0, -1.0)
        pull = mean - mean.detach()
        return torch.stack([torch.zeros_like(mean), value + pull], 1)


@pytest.mark.parametrize("attack", [pgd, apgd], ids=["pgd", "apgd"])
def test_the_best_point_of_the_path_is_kept(attack):
    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    extra = {"random_start": False} if attack is pgd else {}
    found = attack(Shell(), x, y, eps=0.1, norm="linf", **extra)
    if attack is pgd:
        assert not flags(Shell(), found, y).any()
    assert flags(Shell(), x + 0.1, y).all(), "the end of the path is classified right"


class Flat(nn.Module):
    """A model without any gradient."""

    def forward(self, x):
        return torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(len(x), 4)


@pytest.mark.parametrize("name", ALL)
def test_zero_gradients_are_no_error(name):
    x, y = torch.rand(3, 1, 6, 6), torch.zeros(3, dtype=torch.long)
    found = ALL[name](Flat(), x, y, eps=0.3, norm="l2")
    assert found.isfinite().all()
    assert flags(Flat(), found, y).all()


def test_zero_gradients_are_counted():
    x, y = torch.rand(3, 1, 6, 6), torch.zeros(3, dtype=torch.long)
    trace = {}
    pgd(Flat(), x, y, eps=0.3, steps=7, trace=trace)
    assert trace["zero_gradient"].tolist() == [14, 14, 14]  # both losses


class Poisoned(nn.Module):
    """Linear, but NaN once the perturbation is large."""

    def __init__(self, model, x, radius):
        super().__init__()
        self.model, self.x, self.radius = model, x, radius

    def forward(self, x):
        far = size(x - self.x[: len(x)], "linf") > self.radius
        return torch.where(far[:, None], torch.nan, self.model(x))


@pytest.mark.parametrize("name", [n for n in ALL if n != "fgsm"])
def test_nan_on_the_way_is_an_error_never_robust(name):
    model, x, y = problem(4, 25, box=False, n=1)
    x = x.reshape(-1, 1, 5, 5)
    with pytest.raises(FloatingPointError, match="expected finite logits"):
        ALL[name](Poisoned(model, x, 0.01), x, y, eps=0.05, norm="linf")


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("name", [n for n in STRONG if n != "apgd"])  # cross-entropy alone has a temperature
def test_scaling_the_logits_of_a_linear_model_changes_no_verdict(name, factor):
    model, x, y = problem(10, 30, box=False)
    eps = middle(exact_distance(model, x, y, "l2", box=False))
    scaled = Linear(model.weight.detach() * factor, model.bias.detach() * factor)
    plain = flags(model, ALL[name](model, x, y, eps=eps, norm="l2"), y)
    assert (plain == flags(model, ALL[name](scaled, x, y, eps=eps, norm="l2"), y)).float().mean() >= 0.97


def test_noise_breaks_what_is_mostly_wrong_and_not_what_is_robust():
    model, x, y = problem(2, 4, box=False)
    exact = exact_distance(model, x, y, "l2", box=False)
    eps = middle(exact)
    robust = flags(model, noise(model, x, y, eps=eps, norm="l2"), y)
    assert not robust[exact < 0.5 * eps].any()
    assert robust[exact > 1.001 * eps].all()


def test_square_schedule_is_the_papers():
    sides = [window_side(q, (32, 32), 0.8, "linf") for q in (0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001)]
    assert sides == [29, 29, 20, 20, 14, 10, 7, 5, 4, 3]
    assert window_side(4500, (32, 32), 0.8, "l2") == 3
    assert window_side(0, (1, 1), 0.8, "l2") == 1


@pytest.mark.parametrize("side", [2, 3, 5, 8])
def test_square_pattern_has_unit_norm_and_two_signs(side):
    pattern = two_bumps(side)
    assert math.isclose(float(pattern.square().sum()), 1.0, rel_tol=1e-6)
    assert (pattern[: side // 2] > 0).all()
    assert (pattern[side // 2 :] < 0).all()


def test_unknown_names_are_refused():
    model, x, y = problem(4, 25, box=False, n=1)
    for attack in ALL.values():
        with pytest.raises(ValueError, match="expected norm 'l2' or 'linf', got 'l7'"):
            attack(model, x, y, eps=0.1, norm="l7")
    with pytest.raises(ValueError, match="expected losses among"):
        pgd(model, x, y, eps=0.1, losses=["nothing"])
    with pytest.raises(ValueError, match="expected a loss among"):
        apgd(model, x, y, eps=0.1, loss="nothing")
    with pytest.raises(ValueError, match="expected version 'standard' or 'rand'"):
        autoattack(model, x, y, eps=0.1, version="plus")
    two = problem(2, 25, box=False, n=1)
    with pytest.raises(ValueError, match="expected at least 3 classes for the DLR loss"):
        apgd(*two, eps=0.1, loss="dlr")
