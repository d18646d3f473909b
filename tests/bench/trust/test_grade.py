"""The grade is a pure function of the results: laws that hold for any set of them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UsageError
from bench.core.records import Grade
from bench.trust.grade import grade
from bench.trust.records import Check, CheckResult, Finding
from bench.trust.registry import check, checks


def result(verdict, severity, counts=True):
    entry = Check("G9", "something", severity, "nowhere", lambda evidence: Finding(verdict, ""))
    return CheckResult(entry, Finding(verdict, ""), counts)


VERDICTS = ("pass", "fail", "not assessable")
results = st.builds(result, st.sampled_from(VERDICTS), st.sampled_from(("validity", "adequacy", "soft")), st.booleans())
several = st.lists(results, max_size=12)


@given(several, st.sampled_from(("validity", "adequacy", "soft")), st.booleans())
def test_a_failing_check_never_raises_the_grade(found, severity, adaptive):
    assert grade([*found, result("fail", severity)], adaptive=adaptive) >= grade(found, adaptive=adaptive)


@given(several, st.randoms(use_true_random=False), st.booleans())
def test_the_order_is_irrelevant(found, random, adaptive):
    shuffled = random.sample(found, len(found))
    assert grade(shuffled, adaptive=adaptive) == grade(found, adaptive=adaptive)


@given(several, st.booleans())
def test_what_is_missing_is_not_a_pass(found, adaptive):
    for i, r in enumerate(found):
        if r.missing:
            passed = [*found[:i], replace(r, finding=Finding("pass", "")), *found[i + 1 :]]
            assert grade(found, adaptive=adaptive) >= grade(passed, adaptive=adaptive)
    if any(r.missing for r in found):
        assert grade(found, adaptive=adaptive) > Grade.A


@given(several)
def test_an_adaptive_attack_never_lowers_the_grade(found):
    assert grade(found, adaptive=True) <= grade(found, adaptive=False)


PASS = [result("pass", "adequacy")]


@pytest.mark.parametrize(
    ("found", "adaptive", "expected"),
    [
        (PASS, True, Grade.A),
        (PASS, False, Grade.B),
        ([*PASS, result("fail", "soft")], True, Grade.B),
        ([*PASS, *[result("not assessable", "adequacy")] * 2], True, Grade.B),
        ([*PASS, *[result("not assessable", "soft")] * 3], True, Grade.C),
        ([*PASS, *[result("not assessable", "soft", counts=False)] * 9], True, Grade.A),
        ([*PASS, result("fail", "adequacy")], True, Grade.C),
        ([*PASS, result("fail", "adequacy"), result("fail", "validity")], True, Grade.INVALID),
        ([], True, Grade.C),
        ([result("fail", "soft")], True, Grade.C),
        ([result("not assessable", "soft", counts=False)], True, Grade.C),
    ],
)
def test_grades(found, adaptive, expected):
    assert grade(found, adaptive=adaptive) is expected


FAMILIES = {"V": 7, "C": 1, "G": 6, "A": 3, "E": 2, "B": 5, "T": 2, "D": 1, "R": 3}


def test_checks_are_found_in_order_and_documented():
    found = checks()
    assert [c.name for c in found] == [f"{letter}{k}" for letter, n in FAMILIES.items() for k in range(1, n + 1)]
    assert all(c.title and c.source and c.function.__doc__ for c in found)


def test_a_malformed_or_taken_name_is_refused():
    with pytest.raises(UsageError, match="expected one of the letters"):
        check("X1", title="x", severity="soft", source="here")
    with pytest.raises(UsageError, match="expected needs among"):
        check("G9", title="x", severity="soft", source="here", needs="luck")
    checks()
    with pytest.raises(UsageError, match="expected a new name"):
        check("G1", title="x", severity="soft", source="here")(lambda evidence: Finding("pass", ""))
