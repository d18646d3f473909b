"""AutoAttack by racing: verdicts of the full procedure where it runs, and a sample that says what the race misses."""

import pytest
import torch

from bench.attacks.autoattack import autoattack
from bench.attacks.autoattack_raced import autoattack_raced
from bench.core import registry
from bench.measuring.passes import counted
from tests.attacks.known import flags
from tests.attacks.test_closed_form import exact_distance, middle, problem

FEW = {"steps": 20, "n_queries": 60}


@pytest.fixture
def linear():
    model, x, y = problem(4, 25, box=False, n=60)
    x = x.reshape(-1, 1, 5, 5)
    exact = exact_distance(model, x, y, "l2", box=False)
    return model, x, y, exact, middle(exact)


def race(model, x, y, eps, attack=autoattack_raced, **arguments):
    trace = {}
    found = attack(model, x, y, eps=eps, trace=trace, **FEW, **arguments)
    return flags(model, found, y), trace


def test_verdicts_are_those_of_the_full_procedure_and_the_drawn_survivors_are_said(linear):
    model, x, y, exact, eps = linear
    robust, trace = race(model, x, y, eps)
    assert robust.equal(race(model, x, y, eps, autoattack)[0])
    assert not robust[exact < 0.99 * eps].any()
    assert not (trace["sampled"] & ~trace["full"]).any()
    assert 3 <= int(trace["sampled"].sum()) <= 20
    assert not (trace["outrun"] & ~trace["sampled"]).any()
    assert not robust[trace["outrun"]].any()
    assert (robust & ~trace["full"]).any(), "some are given up, or nothing is saved"


def test_what_is_near_is_attacked_in_full_though_nothing_is_drawn(linear):
    model, x, y, exact, eps = linear
    _, trace = race(model, x, y, eps, sample=0.0, near=0.1)
    assert not trace["sampled"].any()
    assert trace["full"][(exact > eps) & (exact < 1.05 * eps)].all()
    assert not trace["full"][exact > 1.3 * eps].any()


def test_everything_is_attacked_in_full_if_all_are_drawn(linear):
    model, x, y, _, eps = linear
    robust, trace = race(model, x, y, eps, sample=1.0)
    assert trace["full"][robust].all()


def test_a_given_up_image_costs_a_fraction(linear):
    model, x, y, exact, _ = linear
    eps, few = 0.3 * float(exact.min()), {"steps": 20, "n_queries": 500}  # nothing breaks, nothing is near
    with counted(model) as full:
        autoattack(model, x[:8], y[:8], eps=eps, **few)
    with counted(model) as raced:
        autoattack_raced(model, x[:8], y[:8], eps=eps, sample=0.0, **few)
    assert raced.forwards < 0.2 * full.forwards
    assert raced.backwards < 0.4 * full.backwards


def test_a_race_that_was_wrong_is_seen_by_the_sample_and_widened(linear, monkeypatch):
    """A full procedure that breaks what the race gave up: the drawn ones show it, and the like are attacked then."""
    model, x, y, exact, _ = linear
    eps = 0.6 * float(exact.min())
    calls = []

    def strong(model, x, y, *, trace, eps, **rest):
        calls.append(len(x))
        found = autoattack(model, x, y, eps=10 * eps, steps=10, n_queries=5, trace=trace)
        return found

    monkeypatch.setattr("bench.attacks.autoattack_raced.autoattack", strong)
    trace = {}
    autoattack_raced(model, x, y, eps=eps, sample=0.3, trace=trace, **FEW)
    assert trace["outrun"].any()
    assert len(calls) == 2, "the widened race attacks what lacks at most twice as much"
    assert trace["full"].sum() > trace["sampled"].sum()
    assert any(stage.startswith("full:") for stage in trace["broken_by"])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_sample_does_not_depend_on_the_batch(norm, linear):
    model, x, y, exact, _ = linear
    eps = 0.01 * float(exact.min())
    _, whole = race(model, x, y, eps, norm=norm)
    _, half = race(model, x[30:], y[30:], eps, norm=norm)
    assert whole["sampled"].any()
    assert torch.equal(whole["sampled"][30:], half["sampled"])


def test_its_columns_say_what_was_sampled(linear):
    model, x, y, _, eps = linear
    columns = registry.evaluations.get("autoattack_raced_l2").function(model, x, y, eps=[eps], sample=0.0, **FEW)
    name = f"autoattack_raced_l2_{eps:g}"
    assert not columns[f"{name}_sampled"].any()
    assert columns[f"{name}_full"].dtype == torch.bool
    with pytest.raises(ValueError, match="sample: expected a number >= 0 and <= 1, got 3"):
        autoattack_raced(model, x, y, eps=eps, sample=3)
