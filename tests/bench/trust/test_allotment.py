"""Trust costs no more than a share of the row's own attack, and cuts first what catches least."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bench
from bench.attacks.core.draws import RandomisedModel
from bench.evaluations.trust import measured
from bench.measuring.passes import counted
from bench.models.defenses.smoothing import Smoothed
from bench.trust.allotment import ALWAYS, FEW, SEARCHES, SHARE, Work, allot, asked, cost
from bench.trust.probes.searches import Subject

WORKS = st.builds(
    lambda passes, images, kept, track: Work(passes, images, round(kept * images), *track),
    st.floats(1, 20_000),
    st.integers(1, 2000),
    st.floats(0, 1),
    st.sampled_from([(0, 0), (20, 100)]),
)


@given(WORKS)
def test_no_more_is_spent_than_allotted_but_for_asking_the_model_itself(work):
    found, searches = allot(work), SEARCHES[work.track]
    spent = asked(work) + sum(cost(name, found[name], work) for name in searches)
    least = asked(work) + sum(cost(name, min(searches[name].least, work.images), work) for name in ALWAYS)
    assert spent <= max(SHARE * work.passes * work.images, least) + 1e-6
    assert all(found[name] for name in ALWAYS if work.kept)
    assert found["repeats"]
    assert not any(found[name] for name in found if name not in searches)


@given(WORKS, st.floats(1, 10))
def test_more_passes_never_mean_fewer_searches_in_all(work, factor):
    richer = replace(work, passes=factor * work.passes)
    assert sum(map(bool, allot(richer).values())) >= sum(map(bool, allot(work).values())) - 1


@given(WORKS)
def test_a_sample_is_large_enough_for_a_check_to_pass_or_there_is_none(work):
    found = allot(work)
    for name, search in SEARCHES[work.track].items():
        assert found[name] in (0, work.images, min(search.least, work.images), min(20, work.images))


def test_the_smallest_sample_is_what_the_cells_of_this_version_have():
    assert FEW == 24, "verdicts.MIN_IMAGES, on which it rests, is in no cell's key: raise trust's version with it"


def test_a_row_of_usual_robustness_is_searched_whole():
    found = allot(Work(4000, 64, 28))
    assert {name: images for name, images in found.items() if images != 64} == {"draws": 0}


def test_where_nothing_is_left_only_the_model_is_asked():
    found = allot(Work(500, 64, 0))
    assert {name for name, images in found.items() if images} == {"repeats"}


@pytest.mark.parametrize("kept", [1, 2])
def test_where_little_is_left_every_image_is_not_searched(kept):
    found = allot(Work(160, 64, kept))
    assert found["smaller"] == 0
    assert found["box"] >= FEW
    assert found["longer"] >= FEW


def test_without_an_attack_to_compare_with_everything_is_run():
    assert min(allot(None).values()) > 10**6


class Turned(torch.autograd.Function):
    """The identity, whose gradient has the wrong sign: an attack that follows it never ends early."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Hiding(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(Turned.apply(x))


@pytest.fixture(scope="module")
def smoothed():
    torch.manual_seed(0)
    return Smoothed(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 0.1).eval()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "broken"])
@pytest.mark.parametrize("hiding", [False, True], ids=["honest", "hiding"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "decision" else n for n in SEARCHES["randomised"]]
)
def test_no_search_of_a_randomised_model_takes_more_passes_than_counted(smoothed, name, hiding, kept):
    model = RandomisedModel(Hiding(smoothed) if hiding else smoothed, votes=10, draws=4).eval()
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    work = Work(1.0, len(x), kept * len(x), model.draws, model.votes)
    robust = torch.full((len(x),), kept)
    adversarial = x if kept else (x + 0.1).clamp(0, 1)
    spent = []
    for images in (0, len(x)):
        allotted = dict.fromkeys(allot(None), 0) | {name: images}
        subject = Subject(model, x, y, 0.1, "l2", 0, torch.arange(len(x)), allotted)
        with counted(model) as passes:
            measured(subject, robust, adversarial)
        spent.append(passes.forwards + passes.backwards)
    assert spent[0] == asked(work)
    assert spent[1] - spent[0] <= cost(name, len(x), work)
    assert (spent[1] > spent[0]) == (cost(name, len(x), work) > 0)


@pytest.mark.parametrize("eps", [0.4, 0.8], ids=["most kept", "few kept"])
def test_trust_of_a_randomised_model_takes_half_of_the_passes_of_its_attack(smoothed, eps):
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = smoothed.network(x).argmax(1)
    names = ["accuracy", "autoattack_l2", "trust"]
    model = RandomisedModel(smoothed, votes=20, draws=4)
    table = bench.evaluate(model, data=(x, y), evaluations=names, eps=eps)
    assert 0 < table[f"autoattack_l2_{eps:g}_robust"].mean() < 1
    attack, trust = (sum(table.attrs["cost"][n][k] for k in ("forwards", "backwards")) for n in names[1:])
    assert 0.2 * attack < trust <= SHARE * attack
