"""Each check on hand-made evidence: what it passes, what it fails on, and where it says that it cannot tell."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.records import Grade
from bench.trust.assess import assess
from bench.trust.columns import NUMBERS
from bench.trust.registry import checks
from bench.trust.verdicts import MIN_IMAGES, exceeds, share_finding
from tests.bench.trust.evidence import (
    AT,
    INDEX,
    LEFT,
    N,
    column,
    evidence,
    first,
    honest,
    rows,
    survivors_only,
    with_,
    without,
)

ALL = {c.name for c in checks()}
STAGES = np.array(["square" if i < 3 else "" if i < LEFT else "apgd-ce" for i in range(N)], object)
RISING = {f"e1_robust_{f}": first(k) for f, k in {"0.25": 48, "0.5": 30, "1": 40, "2": 6, "4": 0}.items()}
DEAD = {f"e1_robust_{f}": first(N) for f in ("0.25", "0.5", "1", "2", "4")}

# check: what makes it fail, and the first image that it names (None: it names none)
FAILS = {
    "V1": ({"v1_state_changed": np.ones(N)}, None, 100),
    "V2": ({"v2_not_finite": first(1)}, None, 100),
    "V3": ({"v3_repeat_difference": first(1)}, None, 100),
    "V4": ({"v4_batch_difference": 2e-3 * first(2)}, None, 100),
    "V5": ({"v5_after_difference": 2e-3 * first(1)}, None, 100),
    "V6": ({"v6_holds": np.where(first(LEFT) == 1, np.nan, 1 - first(LEFT + 2))}, None, 100 + LEFT),
    "C1": (None, with_(column("distance", np.where(first(1) == 1, 0.005, np.nan), **AT, attack="autoattack")), 100),
    "G1": ({"g1_zero_margin_gradient": first(2)}, None, 100),
    "G2": ({"g2_zero_ce_gradient": first(4)}, None, 100),
    "G3": ({"g3_error_in_ball": 0.3 + 0.4 * first(1)}, None, 100),
    "G4": ({"g4_ce_robust": first(LEFT + 12)}, None, 100 + LEFT),
    "G5": ({"g5_probabilities": np.ones(N)}, None, None),
    "G6": ({"g6_stationarity": survivors_only(0.9 * first(6))}, None, 100),
    "A1": ({"a1_one_step": first(3)}, None, 100),
    "A2": ({"a2_broken_by_ce": first(2), "a2_broken_by_margin": first(3)}, None, 100),
    "A3": ({"a3_silent": survivors_only(first(1))}, None, 100),
    "E1": (RISING, None, 130),
    "E2": ({"e2_robust": first(3)}, None, 100),
    "B1": ({"b1_random": first(1)}, None, 100),
    "B2": (None, with_(column("broken_by", STAGES, **AT, attack="autoattack")), 100),
    "B3": (None, with_(column("transfer", 1 - first(3), **AT)), 100),
    "B4": ({"b4_decision": first(2)}, None, 100),
    "B5": ({"b5_on_grid": first(3)}, None, 100),
    "T1": ({"t1_found": 1 - first(9)}, None, 100),
    "D1": ({"d1_autograd_calls": np.ones(N)}, None, 100),
    "R1": ({"r1_verdict_changed": first(9)}, None, 100),
    "R2": ({"r2_held_draws": first(3)}, None, 100),
    "R3": ({"r3_agreement": 1 - first(9)}, None, 100),
}
RANDOMISED = {c.name for c in checks() if c.tracks == ("randomised",)}
TRACK = {name: "randomised" if name in RANDOMISED else "deterministic" for name in FAILS}


def verdicts(found):
    return {r.name: r.verdict for r in assess(found).results}


def test_an_honest_model_passes_everything_and_is_graded_a_with_an_adaptive_attack():
    report = assess(evidence())
    assert {r.verdict for r in report.results} == {"pass"}, [r for r in report.results if r.verdict != "pass"]
    assert report.grade is Grade.A
    assert assess(evidence(adaptive=False)).grade is Grade.B
    randomised = assess(evidence(track="randomised"))
    assert {r.verdict for r in randomised.results} == {"pass"}
    assert {r.name for r in randomised.results} - {r.name for r in report.results} == RANDOMISED == {"R1", "R2", "R3"}


@pytest.mark.parametrize("name", sorted(FAILS))
def test_each_check_fails_on_what_it_is_about_and_names_the_images(name):
    numbers, others, image = FAILS[name]
    report = assess(evidence(numbers, others, track=TRACK[name]))
    assert [r.name for r in report.failed] == [name]
    (failed,) = report.failed
    assert (failed.finding.images[0] if failed.finding.images else None) == image
    assert failed.finding.words
    assert "{" not in failed.finding.words
    assert report.grade is {"validity": Grade.INVALID, "adequacy": Grade.C, "soft": Grade.B}[failed.check.severity]


def test_the_table_above_has_every_check():
    assert ALL - set(FAILS) == {"V7", "T2"}  # V7 cannot fail, only be missing; T2 is below


def test_a_wrong_gradient_on_few_images_is_seen_although_the_median_is_right():
    report = assess(evidence({"g3_error": 0.01 + first(4)}))
    assert [r.name for r in report.failed] == ["G3"]
    assert report.failed[0].finding.images == tuple(INDEX[:4])
    assert assess(evidence({"g3_error": 0.01 + first(1)})).failed == ()


def test_accuracy_at_radius_0_is_clean_accuracy_but_for_ties():
    wrong = column("clean", 1 - first(1))
    assert verdicts(evidence(others=with_(wrong)))["C1"] == "fail"
    tie = np.where(first(1) == 1, 1e-6, np.linspace(1, 9, N))
    others = [column("margin", tie) if c.facts.role == "margin" else c for c in with_(wrong)]
    assert verdicts(evidence({"v5_margin": tie}, others))["C1"] == "pass"


def test_claims_that_do_not_hold_count_for_the_attacks_that_rank():
    assert verdicts(evidence(others=with_(column("refused", first(2), **AT, attack="autoattack"))))["A3"] == "fail"
    assert verdicts(evidence(others=[*rows(), column("refused", first(9), **AT, attack="another")]))["A3"] == "pass"


def test_the_undefended_twin_must_fall():
    strong = evidence({"e1_robust_4": first(3), "e2_robust": first(3)})
    (failed,) = [r for r in assess(evidence(twin=strong)).failed if r.name == "T2"]
    assert failed.finding.images == tuple(INDEX[:3])
    assert failed.finding.words == (
        "at four times the radius the same attack leaves 3 of 64 images of the undefended model (4.7 %), in the whole "
        "box 3 of 64 (4.7 %)"
    )
    assert verdicts(evidence(twin=None))["T2"] == "not assessable"


def test_where_four_times_the_radius_is_little_the_whole_box_decides_whether_the_twin_falls():
    small = {"e1_robust_4": first(20)}
    assert verdicts(evidence(twin=evidence(small)))["T2"] == "pass"
    assert verdicts(evidence(twin=evidence(small | {"e2_robust": first(1)})))["T2"] == "pass"
    assert verdicts(evidence(twin=evidence(small | {"e2_robust": first(5)})))["T2"] == "fail"
    unsearched = evidence(twin=evidence(small | {"e2_robust": np.full(N, np.nan)}))
    (found,) = [r for r in assess(unsearched).results if r.name == "T2"]
    assert found.verdict == "not assessable"
    assert found.finding.words.endswith("and its whole box was not searched")


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("V7", evidence(facts={})),
        ("V7", evidence(facts={"weights": "a" * 64, "data": "short"})),
        ("V6", evidence({"v6_holds": np.full(N, np.nan)})),
        ("B2", evidence(others=without("broken_by"))),
        ("B3", evidence(others=without("transfer"))),
        ("T1", evidence({"t1_found": np.full(N, np.nan), "t1_features": np.zeros(N)})),
        ("T1", evidence({"t1_found": np.full(N, np.nan), "t1_features": np.full(N, 6.0)})),
        ("T1", evidence({"t1_features": np.full(N, np.nan)})),
        ("B4", evidence({"b4_decision": np.full(N, np.nan)})),
        ("E2", evidence({"e2_robust": np.full(N, np.nan)})),
        ("V5", evidence(others=without("margin"))),
    ],
)
def test_what_is_missing_is_not_assessable_and_costs_the_grade_a(name, lacking):
    report = assess(lacking)
    assert [r.name for r in report.missing] == [name]
    assert report.grade is Grade.B


def test_features_that_plant_nothing_are_no_excuse_where_there_are_enough():
    report = assess(evidence({"t1_found": np.full(N, np.nan)}))
    assert [r.name for r in report.failed] == ["T1"]
    assert "although the last layer has 32 features" in report.failed[0].finding.words
    some = np.where(first(N // 2 - 4) == 1, np.nan, 1.0)
    assert verdicts(evidence({"t1_found": some}))["T1"] == "pass"


def test_where_the_attack_left_nothing_no_value_can_be_too_high():
    unsearched = dict.fromkeys(
        n
        for n in NUMBERS
        if n[:2] in ("a1", "a2", "a3", "b1", "b4", "b5", "e1", "e2", "g1", "g2", "g3", "g4", "g6", "t1")
    )
    unsearched = {name: np.full(N, np.nan) for name in unsearched}
    none = evidence(unsearched | {"survivor": np.zeros(N)})
    assert set(verdicts(none).values()) == {"pass"}
    some = verdicts(evidence(unsearched))
    assert {n for n, v in some.items() if v != "pass"} == {
        "A1",
        "A2",
        "A3",
        "B1",
        "B4",
        "B5",
        "E1",
        "E2",
        "G1",
        "G2",
        "G3",
        "G4",
        "G6",
        "T1",
        "T2",  # its twin is itself
    }
    assert set(some.values()) == {"pass", "not assessable"}


def test_a_sample_counts_as_many_images_as_it_has():
    sampled = np.where(first(32) == 1, 0.0, np.nan)
    assert verdicts(evidence({"b4_decision": sampled}))["B4"] == "pass"
    (failed,) = assess(evidence({"b4_decision": sampled + first(2)})).failed
    assert failed.finding.value == pytest.approx(2 / 32)
    few = np.where(first(MIN_IMAGES - 1) == 1, 0.0, np.nan)
    assert verdicts(evidence({"b4_decision": few}))["B4"] == "not assessable"


def test_a_certificate_that_holds_with_a_probability_may_fail_as_often_as_it_says():
    votes = column("certified", np.full(N, 0.45), norm="l2", of="votes", alpha=0.001)
    once, thrice = (column("distance", np.where(first(k) == 1, 0.4, np.nan), **AT, attack="autoattack") for k in (1, 3))
    assert verdicts(evidence(others=[*with_(once)[:-1], votes]))["C1"] == "pass", "one in eight honest rows has one"
    assert verdicts(evidence(others=[*with_(thrice)[:-1], votes]))["C1"] == "fail"
    expected = column("certified", np.full(N, 0.45), norm="l2", of="expectation", alpha=0.001)
    flags = column("certified", np.ones(N, bool), norm="l2", eps=0.5, alpha=0.001)
    assert verdicts(evidence(others=[*with_(once)[:-1], expected, flags]))["C1"] == "pass"


def test_nothing_measured_is_grade_c_and_no_check_passes_but_what_is_stored():
    nothing = evidence(dict.fromkeys(NUMBERS), [], facts={}, twin=None)
    assert set(verdicts(nothing).values()) == {"not assessable"}
    assert assess(nothing).grade is Grade.C


def test_a_model_in_memory_is_not_held_to_other_rows_files_or_certificates():
    bare = evidence({"v6_holds": np.full(N, np.nan)}, without("transfer"), facts={}, twin=None)
    assert {r.name for r in assess(bare).missing} == {"V6", "V7", "B3", "T2"}
    assert assess(dataclasses.replace(evidence(), others=1)).missing[0].name == "B3"
    assert assess(dataclasses.replace(bare, in_memory=True)).missing == ()


def test_where_no_attack_breaks_some_and_leaves_some_finding_nothing_is_no_pass():
    dead = evidence(DEAD | {"survivor": np.ones(N)}, [c for c in rows() if c.facts.role not in ("robust",)])
    found = verdicts(dead)
    assert {n for n, v in found.items() if v == "not assessable"} >= {"A1", "A2", "B1", "B2", "B4", "B5", "E1"}
    assert assess(dead).grade is Grade.C
    unbroken = with_(column("robust", np.ones(N, bool), ranks=2, **AT, attack="autoattack"))
    unbroken = [c for c in unbroken if c.facts.params.get("eps") != 0.25]
    hidden = [column("transfer", np.ones(N, bool), **AT) if c.facts.role == "transfer" else c for c in unbroken]
    assert verdicts(evidence(DEAD | {"survivor": np.ones(N)}, hidden))["B3"] == "not assessable"
    assert verdicts(evidence(DEAD | {"survivor": np.ones(N)}, [], track="randomised"))["R2"] == "not assessable"
    # but finding something is a fail there too
    assert verdicts(evidence(DEAD | {"b1_random": first(1)}, []))["B1"] == "fail"


def test_a_small_robust_accuracy_at_the_claimed_radius_can_be_believed_if_another_radius_shows_that_the_attack_works():
    numbers = {"survivor": np.zeros(N), "e1_robust_1": np.zeros(N), "e1_robust_2": np.zeros(N)}
    none_left = {n: np.full(N, np.nan) for n in NUMBERS if n.startswith(("a2_", "a3_", "b1_", "b4_", "g6_"))}
    numbers |= {"g4_ce_robust": np.zeros(N), "g4_margin_robust": np.zeros(N), **none_left}
    broken = with_(column("robust", np.zeros(N, bool), ranks=2, **AT, attack="autoattack"))
    assert assess(evidence(numbers, broken)).failed == ()
    assert assess(evidence(numbers, broken)).missing == ()


def test_few_images_cannot_pass_but_can_fail():
    few = MIN_IMAGES - 1
    report = share_finding(np.array([]), few, 0.005, "{k} of {n}")
    assert report.verdict == "not assessable"
    assert share_finding(np.arange(3), few, 0.005, "{k} of {n}").verdict == "fail"
    assert share_finding(np.array([]), MIN_IMAGES, 0.005, "{k} of {n}").verdict == "pass"
    assert share_finding(np.array([]), 0, 0.005, "{k} of {n}").verdict == "not assessable"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0, 0.2), st.data())
def test_the_exact_test_is_the_binomial_tail(n, share, data):
    from scipy.stats import binom

    k = data.draw(st.integers(0, n))
    assert exceeds(k, n, share) == (k > 0 and binom.sf(k - 1, n, share) < 0.05)
    if exceeds(k, n, share):
        assert k == n or exceeds(k + 1, n, share)
        assert k / n > share


def test_one_image_of_64_does_not_exceed_half_a_percent_and_two_do():
    assert not exceeds(1, N, 0.005)
    assert exceeds(2, N, 0.005)
    assert exceeds(1, N, 0.0)


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(FAILS)))
def test_the_order_of_images_and_columns_is_irrelevant(random, name):
    numbers, others, _ = FAILS[name]
    found = evidence(numbers, others)
    order = np.array(random.sample(range(N), N))
    shuffled = [dataclasses.replace(c, index=c.index[order], values=c.values[order]) for c in found.columns]
    random.shuffle(shuffled)
    again = assess(dataclasses.replace(found, columns=tuple(shuffled)))
    assert again.as_data() == assess(found).as_data()


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(sorted(FAILS)), max_size=5), st.sampled_from(sorted(set(FAILS) - {"C1", "B2", "B3"})))
def test_another_fault_never_raises_the_grade(names, more):
    faulty = {k: v for n in names if FAILS[n][0] for k, v in FAILS[n][0].items()}
    worse = faulty | FAILS[more][0]
    assert assess(evidence(worse)).grade >= assess(evidence(faulty)).grade


def test_a_report_says_in_words_what_parts_it_from_grade_a():
    report = assess(evidence(others=[]))
    assert report.grade is Grade.C
    assert any(" not assessable: " in words for words in report.reasons)
    assert report.as_data()["reasons"] == list(report.reasons)
    known = {r.name for r in report.missing} | {r.name for r in report.failed}
    assert {words.split(":")[0].split()[0] for words in report.reasons if ": " in words} == known


def test_only_the_norm_and_radius_of_the_threat_count():
    wrong_norm = [dataclasses.replace(c, facts=dataclasses.replace(c.facts, params={"norm": "linf"})) for c in rows()]
    assert verdicts(evidence(others=wrong_norm))["B2"] == "not assessable"
    off = column("broken_by", STAGES, norm="l2", eps=0.25, attack="autoattack")
    assert verdicts(evidence(others=[*rows(), off]))["B2"] == "pass"


def test_flags_with_missing_entries_are_read_whatever_holds_them():
    import pandas as pd

    holders = [
        np.array([True, None, False], object),
        pd.array([True, pd.NA, False], dtype="boolean"),
        pd.Series([True, np.nan, False], dtype=object).array,
        np.array([1.0, np.nan, 0.0]),
    ]
    for values in holders:
        index, numbers = column("robust", values, **AT).known()
        assert index.tolist() == [INDEX[0], INDEX[2]]
        assert numbers.tolist() == [1.0, 0.0]


def test_every_number_is_read_by_a_check_of_its_name():
    for name in honest():
        family = name.partition("_")[0].upper()
        assert family in ALL or name == "survivor", name


def test_the_document_has_a_row_for_every_check_with_its_severity():
    text = (Path(__file__).parents[3] / "docs/trust.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines() if line.startswith("| ")]
    documented = {name: severity for name, severity in rows if name in ALL}
    assert documented == {c.name: c.severity for c in checks()}
