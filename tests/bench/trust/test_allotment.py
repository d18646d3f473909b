"""Trust costs no more than a share of the row's own attack, and cuts first what catches least."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.trust.allotment import ALWAYS, FEW, ONLY, SEARCHES, SHARE, Work, allot, cost

WORKS = st.builds(
    lambda passes, images, kept, draws: Work(passes, images, round(kept * images), draws),
    st.floats(1, 20_000),
    st.integers(1, 2000),
    st.floats(0, 1),
    st.sampled_from([1, 20]),
)


@given(WORKS)
def test_no_more_is_spent_than_allotted_but_for_asking_the_model_itself(work):
    found = allot(work)
    spent = sum(cost(name, images, work) for name, images in found.items())
    asked = sum(cost(name, min(SEARCHES[name].least, work.images), work) for name in ALWAYS)
    assert spent <= max(SHARE * work.passes * work.images, asked) + 1e-6
    assert all(found[name] for name in ALWAYS if work.kept)
    assert found["repeats"]
    assert not found["draws"]
    assert not any(allot(work, "randomised")[name] for name in ONLY["deterministic"])


@given(WORKS, st.floats(1, 10))
def test_more_passes_never_mean_fewer_searches_in_all(work, factor):
    richer = Work(factor * work.passes, work.images, work.kept, work.per_question)
    assert sum(map(bool, allot(richer).values())) >= sum(map(bool, allot(work).values())) - 1


@given(WORKS)
def test_a_sample_is_large_enough_for_a_check_to_pass_or_there_is_none(work):
    for name, images in allot(work).items():
        assert images in (0, work.images, min(SEARCHES[name].least, work.images), min(20, work.images))


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
