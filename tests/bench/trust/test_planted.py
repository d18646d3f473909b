"""Planted truth: the proof, the pitfalls of building it, and what right and broken attacks find of it."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch

from bench.attacks.autoattack import autoattack
from bench.attacks.core.folding import fold_constants
from bench.attacks.fab import fab
from bench.attacks.pgd import pgd
from bench.trust.maxout import EDGE, EPS, PLANTED_AT, Level
from bench.trust.planted import GREY, build, recall
from tests.trust.museum.broken_attacks import plain_pgd

EASY, MIDDLE = Level(-0.5), Level(-0.2)
LEVELS = (EASY, MIDDLE, Level(0.1), Level(0.1, own=False), Level(0.0, per_class=3))


@pytest.fixture(scope="module", params=LEVELS, ids=str)
def truth(request):
    return build(request.param, n=40, seed=11)


@pytest.fixture(scope="module")
def easy():
    return build(EASY, n=40, seed=0)


@pytest.fixture(scope="module")
def middle():
    return build(MIDDLE, n=40, seed=0)


def deviations(truth, count, seed=0):
    """Return `count` points per image, uniform in direction and on every radius up to eps, float64 (count, n, 64)."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, len(truth.x), 64, generator=generator, dtype=torch.float64)
    radius = EPS * torch.rand(count, len(truth.x), 1, generator=generator, dtype=torch.float64)
    return radius * direction / direction.norm(dim=2, keepdim=True)


def test_the_proof_holds_and_the_planted_examples_are_adversarial(truth):
    assert truth.proof.holds
    assert truth.proof.separation > 1
    assert truth.proof.decoy_ceiling < 1
    with torch.no_grad():
        assert (truth.exact(truth.x).argmax(1) == truth.y).all()
        assert (truth.exact(truth.planted).argmax(1) != truth.y).all()
    distance = (truth.planted.double() - truth.x.double()).flatten(1).norm(dim=1)
    assert torch.allclose(distance, torch.full_like(distance, PLANTED_AT * EPS), atol=1e-6)
    assert truth.planted.min() >= 0
    assert truth.planted.max() <= 1
    assert truth.in_cap(truth.planted).all()


def test_every_adversarial_point_of_a_ball_lies_in_its_cap(truth):
    """In float64: uniform points, points around the cap's border, and each decoy's own optimum."""
    network, images = truth.exact.network, truth.exact.network.images
    unit = network.planted / network.planted.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(1)
    across = deviations(truth, 200, seed=2)
    across -= (across * unit).sum(2, keepdim=True) * unit
    across /= across.norm(dim=2, keepdim=True)
    height = EPS * (EDGE + 0.2 * (2 * torch.rand(200, len(images), 1, generator=generator, dtype=torch.float64) - 1))
    slant = (EPS**2 - height**2).clamp_min(0).sqrt() * torch.rand(200, len(images), 1, generator=generator)
    optima = network.decoys.flatten(1, 2).transpose(0, 1)
    optima = EPS * optima / optima.norm(dim=2, keepdim=True).clamp_min(1e-12)
    met = 0
    for d in (*deviations(truth, 100), *(height * unit + slant * across), *optima):
        assert (d.norm(dim=1) <= EPS * (1 + 1e-9)).all()
        wrong = network(images + d).argmax(1) != truth.y
        share = (d * unit).sum(1) / EPS
        value = (network.planted * d).sum(1) + network.planted_offsets
        assert (wrong == (value > 1)).all(), "wrong exactly where the planted piece exceeds 1"
        assert ((share > EDGE) == (value > 1))[(share - EDGE).abs() > 1e-6].all(), "and that is the cap"
        met += int(wrong.sum())
    assert met > 1000


def test_a_decoy_never_comes_near_the_true_class(truth):
    network, images = truth.exact.network, truth.exact.network.images
    wrong_class = torch.arange(10) != truth.y[:, None]
    for piece in range(network.decoys.shape[2]):
        for c in range(10):
            slope = network.decoys[:, c, piece]
            d = EPS * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
            logit = network(images + d)[:, c]
            own = network.planted_class[:, c]
            assert (logit[wrong_class[:, c] & ~own] <= -0.2 * 8 + 1e-5).all()


def test_hardness_grows_with_the_onset():
    values = [build(Level(tau), n=40, seed=3).hardness for tau in (-0.5, -0.2, 0.0, 0.2)]
    assert values == sorted(values)
    assert values[0] < 0.2
    assert values[-1] > 4


def test_without_own_decoys_the_planted_piece_leads_its_class_everywhere():
    hidden, own = build(Level(0.1), n=40, seed=3), build(Level(0.1, own=False), n=40, seed=3)
    assert (own.easy_class_starts == 1).all()
    assert hidden.easy_class_starts.mean() < 0.5
    assert own.hardness > 2, "it still seldom leads all classes"


def test_the_same_seed_gives_the_same_truth_and_another_another():
    a, b, c = (build(MIDDLE, n=20, seed=s) for s in (5, 5, 6))
    assert all(torch.equal(p, q) for p, q in zip(a.network.buffers(), b.network.buffers(), strict=True))
    assert torch.equal(a.planted, b.planted)
    assert a.hardness == b.hardness
    assert not torch.equal(a.x, c.x)


def test_no_two_pieces_tie_at_the_image(truth):
    """A tie splits the gradient of a maximum, and attacks that start at the image see the planted direction."""
    network = truth.network
    offsets = torch.cat([network.decoy_offsets.flatten(1), network.planted_offsets[:, None]], 1)
    for row, label in zip(offsets, truth.y.tolist(), strict=True):
        m = network.decoys.shape[2]
        keep = torch.ones(len(row), dtype=torch.bool)
        keep[label * m : (label + 1) * m] = False
        values = row[keep & (row > -100)]
        assert len(values.unique()) == len(values)


def test_an_unused_piece_does_not_hide_the_planted_gradient():
    truth = build(Level(0.1, own=False), n=40, seed=0)
    x = truth.x.clone().requires_grad_()
    logits = truth.network(x)
    target = truth.network.planted_class
    (grad,) = torch.autograd.grad(logits[target].sum(), x)
    assert torch.allclose(grad.flatten(1), 8 * truth.network.planted, atol=1e-4)


def test_the_box_does_not_bend_the_directions():
    truth = build(MIDDLE, n=100, seed=0)
    assert truth.x.min() >= GREY[0] - 1e-6
    assert truth.x.max() <= GREY[1] + 1e-6
    w = torch.nn.functional.normalize(truth.network.planted, dim=1)
    assert (w @ w.T).triu(1).sum().abs() / (100 * 99 / 2) < 0.02, "directions of different images are not aligned"
    decoys = torch.nn.functional.normalize(truth.network.decoys.flatten(1, 2), dim=2)
    cosine = (decoys @ w[:, :, None]).squeeze(2)
    assert cosine.mean().abs() < 0.02


def test_images_whose_balls_overlap_are_refused():
    with pytest.raises(ValueError, match="disjoint balls"):
        build(EASY, n=1500)


def test_folding_leaves_these_networks_alone_and_attacks_change_nothing(middle):
    before = copy.deepcopy(middle.network)
    assert fold_constants(middle.network, middle.x, 10_000) is middle.network
    recall(partial(autoattack, steps=5, n_queries=5), middle)
    assert all(torch.equal(p, q) for p, q in zip(before.buffers(), middle.network.buffers(), strict=True))
    with torch.no_grad():
        d = deviations(middle, 1)[0].float().view_as(middle.x)
        assert torch.allclose(middle.network(middle.x + d), middle.exact(middle.x + d).float(), atol=1e-4)


def test_fab_is_deterministic_so_its_recall_is_a_cliff(middle):
    first, second = recall(fab, middle, seed=0), recall(fab, middle, seed=1)
    assert torch.equal(first.found, second.found)


@pytest.mark.parametrize("runs", [1, 3])
def test_pgd_finds_at_least_what_its_starts_promise(middle, runs):
    """Recall ≥ mean of 1 − (1 − p_i)^R, the share of images with a start in the planted basin, up to chance."""
    promised = middle.predicted_recall(runs)
    noise = 3 * math.sqrt(promised * (1 - promised) / 40)
    for loss in ("ce", "margin"):
        assert recall(partial(pgd, losses=(loss,), restarts=runs), middle).share >= promised - noise


def test_working_attacks_find_what_is_there(easy, middle):
    for attack, truth in ((autoattack, middle), (pgd, easy)):
        settings = {"n_queries": 100} if attack is autoattack else {}
        found = recall(partial(attack, **settings), truth)
        assert found.share >= 0.95
        assert found.in_cap[found.found].all()
        assert not found.refused.any()


def one_step(model, x, y, **settings):
    """Return after the first step of forty."""
    return pgd(model, x, y, steps=1, rel_stepsize=2.5 / 40, final_step=False, **settings)


BROKEN = {
    "no projection": partial(plain_pgd, fault="no projection"),
    "sign flipped": partial(plain_pgd, fault="sign flipped"),
    "wrong label": partial(plain_pgd, fault="wrong label"),
    "step too small": partial(plain_pgd, fault="step too small"),
    "one step": one_step,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_attacks_find_hardly_anything(fault, easy, middle):
    for truth in (easy, middle):
        assert recall(plain_pgd, truth).share >= 0.95, "the same attack without the fault"
        found = recall(BROKEN[fault], truth)
        assert found.share < 0.2
        assert found.in_cap[found.found].all()
        if fault == "no projection":
            assert found.refused.float().mean() > 0.9
