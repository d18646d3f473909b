"""What a search tries: spaces as they are written, and the trials that come of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.defense_spec import parse_defense_spec
from bench.config.search_space import parse_space
from bench.core.errors import UsageError


def value(spec: str, key: str) -> float:
    return float(dict(part.split("=") for part in spec.partition(":")[2].split(","))[key])


def test_the_first_trial_of_a_range_is_the_defense_without_what_is_varied() -> None:
    space = parse_space("lcnn:lambda_beta=1e-4..1e-1,lr=0.05")
    first, *rest = space.trials(6, seed=0)
    assert first == "lcnn:lr=0.05"
    assert len(set(rest)) == 5
    assert all(1e-4 <= value(spec, "lambda_beta") <= 1e-1 for spec in rest)
    assert all(str(parse_defense_spec(spec)) == spec for spec in rest)  # as the board spells them


def test_a_larger_budget_goes_on_where_a_smaller_one_ended() -> None:
    for text in ("lcnn:lambda_beta=1e-4..1e-1,lambda_gamma=0|0.001", "trades:beta=1|3|6|12,steps=1|2|3"):
        assert parse_space(text).trials(9, seed=3)[:4] == parse_space(text).trials(4, seed=3)
    other = parse_space("trades:beta=1|3|6|12,steps=1|2|3").trials(4, seed=4)
    assert other != parse_space("trades:beta=1|3|6|12,steps=1|2|3").trials(4, seed=3)


def test_choices_are_their_grid() -> None:
    trials = parse_space("lcnn:lambda_beta=0.001|0.01,centered=true|false").trials(4, seed=0)
    assert len(set(trials)) == 4
    assert set(trials) >= {"lcnn:centered=false,lambda_beta=0.01"}


def test_a_space_without_anything_to_vary_is_one_trial() -> None:
    assert parse_space("standard").trials(8, seed=0) == ("standard",)


def test_wide_positive_ranges_are_drawn_by_their_logarithm() -> None:
    wide = [value(s, "lambda_beta") for s in parse_space("lcnn:lambda_beta=1e-5..1e-1").trials(60, seed=0)[1:]]
    assert 0.3 < sum(v < 1e-3 for v in wide) / len(wide) < 0.7
    narrow = [value(s, "beta0") for s in parse_space("lcnn:beta0=1..9").trials(60, seed=0)[1:]]
    assert 0.3 < sum(v < 5 for v in narrow) / len(narrow) < 0.7


def test_whole_numbers_stay_whole() -> None:
    trials = parse_space("adversarial_training:steps=1..10").trials(6, seed=0)
    assert {value(spec, "steps") for spec in trials[1:]} <= set(range(1, 11))


@given(st.floats(1e-6, 10), st.floats(1.0001, 1e4), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_draws_stay_inside_their_range(low: float, factor: float, seed: int) -> None:
    high = low * factor
    trials = parse_space(f"gradreg:lambda_gradient={low!r}..{high!r}").trials(3, seed)
    ends = float(f"{low:.12g}"), float(f"{high:.12g}")
    assert all(ends[0] <= value(spec, "lambda_gradient") <= ends[1] for spec in trials[1:])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lcnm:lambda_beta=1..2", "lcnn"),
        ("lcnn:lambda_bta=1..2", "lambda_beta"),
        ("lcnn:lambda_beta=2..1", "low..high"),
        ("lcnn:lambda_beta=a..b", "low..high"),
        ("lcnn:lambda_beta=-1..1", "lambda_beta"),
        ("lcnn:lambda_beta=0.1|", "a|b|c"),
        ("lcnn:lambda_beta=0.1|0.1", "a|b|c"),
        ("lcnn:lambda_beta=0.1|x", "lambda_beta"),
    ],
)
def test_a_wrong_space_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("|", r"\|").replace("..", r"\.\.")):
        parse_space(text)


def test_budgets_are_equal_or_refused() -> None:
    with pytest.raises(UsageError, match="at least 3 different settings of lcnn:centered"):
        parse_space("lcnn:centered=true|false").trials(3, seed=0)
