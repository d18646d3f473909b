"""What is said of a raced attack: the bound by hand, and the sentence on the page of a board that has one."""

import pandas as pd
import pytest
import torch

from bench.attacks.autoattack_raced import autoattack_raced
from bench.core import registry
from bench.core.records import expand_columns
from bench.reports.board.races import RaceBound, race_sentences
from tests.attacks.test_closed_form import problem


def test_the_bound_is_the_exact_one():
    bound = RaceBound(robust=300, full=130, sampled=100, outrun=0)
    assert bound.upper == pytest.approx(1 - 0.05 ** (1 / 100))
    assert bound.sentence == (
        "the full attack was run on 130 of the 300 images that count as robust, and broke 0 of 100 drawn at random "
        "among those that the race had given up: it would break at most 3.0\u00a0% of the other 170 (95\u00a0%)."
    )


def test_nothing_is_claimed_without_a_sample_and_nothing_needed_where_all_were_attacked():
    assert RaceBound(10, 2, 0, 0).upper is None
    assert "other 8 is unknown" in RaceBound(10, 2, 0, 0).sentence
    assert RaceBound(10, 10, 8, 0).sentence.endswith("10 images that count as robust.")


class Facts:
    """What `race_sentences` reads of a board: columns and where they come from."""

    def __init__(self, facts):
        self.facts, self.origins = facts, dict.fromkeys(facts, "autoattack_raced_l2")

    def examples_with(self, *roles, among):
        return [name for name in among if self.facts[name].role in roles]


def test_the_sentence_counts_the_columns_that_the_attack_gives():
    model, x, y = problem(4, 25, box=False, n=30)
    x, eps = x.reshape(-1, 1, 5, 5), 0.01
    entry = registry.evaluations.get("autoattack_raced_l2")
    columns = entry.function(model, x, y, eps=[eps], steps=8, n_queries=20)
    flags = {k: v for k, v in columns.items() if isinstance(v, torch.Tensor) and v.ndim == 1}
    facts = expand_columns(entry.columns, {"eps": [eps]}, flags)
    table = pd.DataFrame({k: v.numpy() for k, v in flags.items()})
    (said,) = race_sentences(Facts(facts), table)
    trace = {}
    autoattack_raced(model, x, y, eps=eps, steps=8, n_queries=20, trace=trace)
    assert said.startswith(f"Raced AutoAttack, l2 {eps:g}: ")
    assert f"broke 0 of {int(trace['sampled'].sum())} drawn" in said
