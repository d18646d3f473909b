"""The risk-limiting audit against its test values, enumeration and exact dynamic programming."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.core.stats.audit import AuditRule, anytime_p, audit_order, conclude, upper_limit

FIVE = Fraction("0.05")


def rule(images: int, margin: str, risk: str = "0.05") -> AuditRule:
    return AuditRule(images, Fraction(margin), Fraction(risk))


@pytest.mark.parametrize(
    ("images", "margin", "boundary", "expected"),
    [
        (32, "0.1", 4, (18, 26, 31, 32)),
        (100, "0.05", 5, (51, 74, 89, 97, 100)),
        (300, "0.01", 3, (205, 277, 300)),
        (300, "0.02", 6, (137, 202, 247, 277, 295, 300)),
        (1000, "0.01", 10, (314, 481, 608, 713, 800, 872, 929, 970, 994, 1000)),
        (1000, "0.02", 20, (175, 274, 356, 427, 493, 553, 608, 660, 709, 754)),
        (5000, "0.01", 50, (376, 600, 787, 957, 1116, 1266, 1410, 1548, 1682, 1812)),
        (5000, "0.02", 100, (192, 308, 406, 495, 579, 660, 737, 812, 885, 956)),
    ],
)
def test_the_thresholds_are_those_of_the_published_table(images, margin, boundary, expected):
    audit = rule(images, margin)
    assert audit.boundary == boundary
    assert audit.thresholds()[: len(expected)] == expected


def test_the_martingale_is_exact():
    small, large = rule(10, "0.3"), rule(1000, "0.01")
    values = {(0, 0): Fraction(1), (1, 0): Fraction(4, 3), (5, 0): Fraction(76, 9), (5, 1): Fraction(28, 45)}
    assert {state: small.martingale(*state) for state in values} == values
    for state, value in {
        (313, 0): 19.87947, (314, 0): 20.13241, (480, 1): 19.93544, (481, 1): 20.22667, (100, 0): 2.16768,
        (100, 2): 0.20157,
    }.items():  # fmt: skip
        assert float(large.martingale(*state)) == pytest.approx(value, abs=5e-6)
    assert small.martingale(8, 0) is None, "three breakable images no longer fit among the two that are left"
    assert small.martingale(5, 3) == 0


def test_the_boundary_is_the_ceiling_of_an_exact_fraction():
    assert rule(100, "0.07").boundary == 7
    assert math.ceil(0.07 * 100) == 8, "the trap"


def test_outcomes():
    audit = rule(1000, "0.01")
    assert conclude(audit, 313, []) == "undecided"
    assert conclude(audit, 314, []) == "confirmed"
    assert conclude(audit, 314, [1]) == "undecided"
    assert conclude(audit, 481, [1]) == "confirmed"
    assert conclude(audit, 320, [315]) == "confirmed", "what was confirmed at 314 stays confirmed"
    assert conclude(audit, 20, range(11, 21)) == conclude(audit, 1000, range(991, 1001)) == "refuted"
    assert conclude(audit, 1000, range(1, 10)) == "confirmed"
    assert rule(300, "0.01").needs_a_full_count() is False, "205 of 300"
    assert rule(200, "0.01").needs_a_full_count() is True


@pytest.mark.parametrize(
    ("images", "draws", "hit_at", "limit"),
    [
        (1000, 100, [], 36), (1000, 314, [], 9), (1000, 314, [1], 17), (300, 100, [], 9), (5000, 299, [], 63),
        (1000, 314, [314], 10),  # what 313 clean draws excluded stays excluded
        (50, 50, [3, 9], 2), (50, 0, [], 50),
    ],
)  # fmt: skip
def test_the_upper_limit(images, draws, hit_at, limit):
    assert upper_limit(images, FIVE, draws, hit_at) == limit


@settings(deadline=None, max_examples=60)
@given(st.integers(5, 40), st.data())
def test_the_upper_limit_is_what_enumeration_gives(images, data):
    draws = data.draw(st.integers(0, images))
    hit_at = sorted(data.draw(st.sets(st.integers(1, draws), max_size=6))) if draws else []
    kept = []
    for boundary in range(1, images + 1):
        audit = AuditRule(images, Fraction(boundary, images), FIVE)
        states = [(t, sum(h <= t for h in hit_at)) for t in range(draws + 1)]
        values = [audit.martingale(t, s) for t, s in states]
        if all(m is not None and m < 20 for m in values):
            kept.append(boundary)
    assert upper_limit(images, FIVE, draws, hit_at) == max([*kept, len(hit_at)])


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 60), st.data())
def test_it_is_a_supermartingale_at_the_boundary(images, data):
    """Σ_s P(s | t, D0) M(t, s) ≤ 1 for every t; a state whose null hypothesis is impossible has probability 0."""
    audit = AuditRule(images, Fraction(data.draw(st.integers(1, images)), images), FIVE)
    draws = data.draw(st.integers(0, images))
    d0 = audit.boundary
    total = Fraction(0)
    for hits in range(max(0, draws - (images - d0)), min(draws, d0) + 1):
        chance = Fraction(math.comb(d0, hits) * math.comb(images - d0, draws - hits), math.comb(images, draws))
        value = audit.martingale(draws, hits)
        assert value is not None or hits < d0 - (images - draws)
        total += chance * (value or 0)
    assert total <= 1
    if draws <= images - d0:
        assert total == 1, "a martingale until the null hypothesis may become impossible"


@settings(deadline=None, max_examples=40)
@given(st.integers(5, 400), st.fractions(Fraction(1, 50), Fraction(1, 2)))
def test_thresholds_never_fall_and_are_the_first_states_that_confirm(images, margin):
    assume(margin * images >= 1)
    audit = AuditRule(images, margin, FIVE)
    b = audit.thresholds()
    assert list(b) == sorted(b)
    for hits, t in enumerate(b):
        value, before = audit.martingale(t, hits), audit.martingale(t - 1, hits) if t > hits else Fraction(0)
        assert value is None or value >= 20
        assert before is not None and before < 20  # noqa: PT018


def chance_to_confirm(audit: AuditRule, breakable: int) -> float:
    """Return P(ever confirmed) when `breakable` images can be broken, by dynamic programming over (t, s)."""
    b = audit.thresholds()
    alive, confirmed = {0: 1.0}, 0.0
    for t in range(1, audit.images + 1):
        after: dict[int, float] = {}
        for hits, chance in alive.items():
            left = audit.images - t + 1
            for more, weight in ((1, (breakable - hits) / left), (0, 1 - (breakable - hits) / left)):
                if weight > 0 and hits + more < audit.boundary:
                    if t >= b[hits + more]:
                        confirmed += chance * weight
                    else:
                        after[hits + more] = after.get(hits + more, 0.0) + chance * weight
        alive = after
    return confirmed


@pytest.mark.parametrize(
    ("images", "margin", "values"),
    [
        (60, "0.06", {3: 1.0, 4: 0.0369, 5: 0.0111, 8: 0.0004}),
        (300, "0.02", {6: 0.0459, 7: 0.0185, 12: 0.0006}),
        (1000, "0.01", {9: 1.0, 10: 0.0482, 11: 0.0255, 13: 0.0094, 20: 0.0005}),
    ],
)
def test_the_risk_is_kept_exactly(images, margin, values):
    audit = rule(images, margin)
    for breakable, chance in values.items():
        assert chance_to_confirm(audit, breakable) == pytest.approx(chance, abs=6e-5)
    for breakable in range(audit.boundary, audit.boundary + 10):
        assert chance_to_confirm(audit, breakable) <= 0.05


def test_a_simulated_audit_confirms_false_claims_at_most_at_the_risk():
    audit, rng, confirmed = rule(60, "0.06"), np.random.default_rng(0), 0
    b, limits = audit.thresholds(), []
    for _ in range(2000):
        hits = np.flatnonzero(rng.permutation(60) < 4) + 1  # draws at which a breakable image comes
        stop = next(
            (max(t, h) for t, h, after in zip(b, [1, *hits], [*hits, 61], strict=False) if max(t, h) < after), 0
        )
        confirmed += stop > 0
        stop = stop or int(hits[3])
        seen = [int(h) for h in hits if h <= stop]
        assert conclude(audit, stop, seen) != "undecided"
        limits.append(upper_limit(60, FIVE, stop, seen))
    assert confirmed / 2000 <= 0.0369 + 3 * math.sqrt(0.0369 * 0.9631 / 2000)
    assert np.mean(np.array(limits) < 4) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_the_p_value_is_valid_at_any_time():
    audit = rule(1000, "0.01")
    assert anytime_p(audit, 0, []) == 1
    assert anytime_p(audit, 314, []) == pytest.approx(1 / 20.13241, abs=1e-6)
    assert anytime_p(audit, 320, [315]) == pytest.approx(1 / 20.13241, abs=1e-6), "once confirmed it stays so"
    assert anytime_p(audit, 1000, [1]) == 0


def test_the_order_can_be_recomputed_by_anyone():
    expected = sorted(range(50), key=lambda i: hashlib.sha256(f"7:{i}".encode()).hexdigest())
    assert audit_order(7, range(50)) == expected
    assert audit_order(7, reversed(range(50))) == expected
    assert audit_order(8, range(50)) != expected


@pytest.mark.parametrize(
    ("images", "margin", "risk"), [(0, "0.1", "0.05"), (10, "0.05", "0.05"), (10, "0", "0.05"), (10, "0.1", "1")]
)
def test_a_claim_that_cannot_be_audited_is_refused(images, margin, risk):
    with pytest.raises(ValueError, match="expected"):
        rule(images, margin, risk)
