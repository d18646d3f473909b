"""The evaluation `trust` end to end: an honest network keeps its grade, fakes are seen, and what a suite reads."""

from __future__ import annotations

import pandas as pd
import pytest
from torch import nn

import bench
from bench.core import registry
from bench.core.records import expand_columns
from bench.evaluations.accuracy import accuracy
from bench.measuring.inputs import BatchInputs
from bench.museum.networks import Networks
from bench.trust.columns import NUMBERS
from tests.bench.trust.wrong_gradients import Negated

N = 20  # as few as can pass


class Then(nn.Module):
    """A function of a network's logits."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.function(self.network(x))


@pytest.fixture(scope="module")
def digits():
    return Networks()


@pytest.fixture(scope="module")
def network(digits):
    return digits.trained("lcnn")


@pytest.fixture(scope="module")
def data(digits):
    return digits.images("digits", N)


@pytest.fixture(scope="module")
def honest(network, data):
    return bench.evaluate(network, data=data, evaluations=["trust", "accuracy", "autoattack_l2"])


def verdicts(table):
    return {name: check["verdict"] for name, check in table.attrs["trust"]["checks"].items()}


def failed(table):
    return {name for name, verdict in verdicts(table).items() if verdict == "fail"}


def test_an_honest_network_passes_every_check_that_a_model_in_memory_can_answer(honest):
    found = verdicts(honest)
    assert {name for name, verdict in found.items() if verdict != "pass"} == {"V6", "V7", "B3", "T2"}
    assert honest.attrs["trust"]["grade"] == "B"  # A takes an adaptive attack that the author declares
    assert honest.attrs["trust"]["adaptive"] is False
    assert honest.attrs["trust"]["reasons"] == ["no attack made for this very defense was declared"]
    assert all(check["words"] for check in honest.attrs["trust"]["checks"].values())


def test_every_number_has_a_column_and_what_survived_is_what_the_attack_left(honest):
    assert [c for c in honest if c.startswith("trust_")] == [f"trust_{name}" for name in NUMBERS]
    right_and_left = honest["autoattack_l2_0.5_robust"]
    assert (honest["trust_survivor"] == right_and_left).all()
    assert honest["trust_a2_late_rise"].notna().equals(right_and_left)


def test_it_is_run_after_what_it_reads_and_costs_less_than_the_attack(honest):
    assert list(honest.attrs["cost"])[-1] == "trust"
    cost = honest.attrs["cost"]
    passes = {name: cost[name]["forwards"] + 2 * cost[name]["backwards"] for name in ("trust", "autoattack_l2")}
    assert passes["trust"] < 0.6 * passes["autoattack_l2"]


@pytest.mark.parametrize(
    ("function", "check", "grade"),
    [
        (Negated.apply, "G3", "C"),
        (lambda z: z.softmax(1), "G5", "B"),
    ],
)
def test_fakes_are_seen(network, data, function, check, grade):
    table = bench.evaluate(Then(network, function), data=data, evaluations=["accuracy", "trust"])
    assert check in failed(table)
    order = ["A", "B", "C", "INVALID"]
    assert order.index(table.attrs["trust"]["grade"]) >= order.index(grade)


def test_a_weak_attack_in_the_rows_place_is_seen(network, data):
    table = bench.evaluate(network, data=data, evaluations=["accuracy", "noise_l2", "trust"])
    assert {"A2", "B4"} <= failed(table)
    assert "had not converged" in table.attrs["trust"]["checks"]["A2"]["words"]
    assert table.attrs["trust"]["checks"]["A2"]["images"]


def test_the_largest_of_several_radii_is_examined(network, data):
    few = (data[0][:2], data[1][:2])
    several = bench.evaluate(network, data=few, evaluations=["trust"], eps=[0.1, 0.5])
    one = bench.evaluate(network, data=few, evaluations=["trust"], eps=0.5)
    pd.testing.assert_frame_equal(several, one)
    assert verdicts(one)["G3"] == "not assessable"  # two images


def test_linf_has_its_own_columns(network, data):
    few = (data[0][:2], data[1][:2])
    table = bench.evaluate(network, data=few, evaluations=["trust_linf"], eps="8/255")
    assert table["trust_linf_g3_error"].notna().all()
    assert table.attrs["trust"]["checks"]["V4"]["verdict"] == "pass"


def test_results_belong_to_the_image_not_to_its_batch(network, data):
    few = (data[0][:2], data[1][:2])
    whole = bench.evaluate(network, data=few, evaluations=["trust"])
    single = bench.evaluate(network, data=few, evaluations=["trust"], batch_size=1)
    pd.testing.assert_frame_equal(whole, single, rtol=2e-2, atol=1e-3)


def test_its_columns_are_what_the_checks_read():
    for name, norm in (("trust", "l2"), ("trust_linf", "linf")):
        entry = registry.evaluations.get(name)
        columns = expand_columns(entry.columns, {"eps": [0.5]})
        assert [c.params["number"] for c in columns.values()] == list(NUMBERS)
        assert {c.params["norm"] for c in columns.values()} == {norm}
        assert {c.role for c in columns.values()} == {"trust"}
        assert all(need.optional for need in entry.needs)


def test_without_inputs_it_attacks_itself(network, data):
    x, y = data[0][:3], data[1][:3]
    entry = registry.evaluations.get("trust")
    found = entry.function(network.eval(), x, y, inputs=BatchInputs(), eps=[0.5])
    right = accuracy(network, x, y)["clean_correct"]
    assert (found["trust_survivor"].bool() <= right).all()
    assert found["trust_v6_holds"].isnan().all()
