"""Audits of boards whose truth is known: honest ones are confirmed, tampered ones are caught at the stated rate."""

from __future__ import annotations

import math

import pytest

from bench.store.audit_record import AuditedModel, AuditRecord, FrozenClaim
from bench.trust.risk_audit import continue_audit, statement

N = 200


def board(seed: int = 0, margin: str = "0.05", models: int = 2) -> AuditRecord:
    """Return an audit, not yet begun, of 200 images counted robust."""
    share = N // models
    robust = tuple(range(share))
    listed = tuple(AuditedModel(run=f"m{m} seed 0", weights="w", n=2 * share, robust=robust) for m in range(models))
    claim = FrozenClaim(
        column="autoattack_l2_0.5_robust", data="d", models=listed, attack={"evaluation": "autoattack_l2", "seed": 1},
        margin=margin, risk="0.05",
    )  # fmt: skip
    return AuditRecord(claim=claim, claim_sha256=claim.sha256, frozen_at="2026-01-01", seed=seed, seed_source="given")


class Truth:
    """An attack that breaks exactly the first `breakable` images of the list, and counts its calls."""

    def __init__(self, breakable: int) -> None:
        self.breakable, self.attacked = breakable, []

    def __call__(self, numbers):
        self.attacked += list(numbers)
        return ["apgd-t" if number < self.breakable else "" for number in numbers]


def test_an_honest_board_is_confirmed_after_b0_images_and_no_more():
    audit, attack = board(), Truth(0)
    found = continue_audit(audit, attack)
    assert found.outcome == "confirmed"
    assert found.draws == len(attack.attacked) == audit.claim.rule.threshold(0)
    assert len(set(attack.attacked)) == len(attack.attacked), "one try per image"
    assert attack.attacked == audit.order()[: found.draws]
    assert found.upper_limit < audit.claim.rule.boundary
    assert found.p <= 0.05


def test_a_few_hits_cost_more_images_but_no_verdict():
    for seed in range(20):
        found = continue_audit(board(seed), Truth(3))
        assert found.outcome == "confirmed"
        assert found.draws == found.claim.rule.threshold(len(found.hits))


@pytest.mark.parametrize(("flipped", "most"), [(10, 0.05), (13, 0.02), (20, 0.003)])
def test_a_board_with_flipped_flags_is_confirmed_at_most_at_the_risk(flipped, most):
    """As many images as the margin allows not to fall, or more, were flipped to robust: 400 public seeds."""
    confirmed = sum(continue_audit(board(seed), Truth(flipped)).outcome == "confirmed" for seed in range(400))
    assert confirmed / 400 <= most + 3 * math.sqrt(most * (1 - most) / 400)


def test_every_tampered_board_that_is_not_confirmed_is_refuted_in_the_end():
    for seed in range(50):
        found = continue_audit(board(seed), Truth(20))
        assert found.outcome in ("refuted", "confirmed")
        if found.outcome == "refuted":
            assert len(found.hits) >= 10


def test_an_audit_that_was_stopped_goes_on_where_it_was():
    whole = continue_audit(board(3), Truth(12))
    attack, part = Truth(12), board(3)
    while part.outcome == "undecided":
        part = continue_audit(part, attack, max_draws=part.draws + 17)
    assert part.outcome == whole.outcome
    assert part.hits[: len(whole.hits)] == whole.hits[: len(part.hits)]
    assert len(set(attack.attacked)) == len(attack.attacked)
    stopped = continue_audit(board(3), Truth(12), should_stop=lambda: True)
    assert stopped.outcome == "undecided"
    assert stopped.draws == min(100, board(3).claim.rule.threshold(0))


def test_the_limit_holds_whenever_the_audit_stops():
    """At most U of the images fall, with 95 % confidence at any stopping time: 25 can be broken."""
    missed = 0
    for seed in range(300):
        audit, lowest = board(seed, margin="0.3"), N
        for draws in (5, 20, 40, 60):
            audit = continue_audit(audit, Truth(25), max_draws=draws)
            lowest = min(lowest, audit.upper_limit)
        missed += lowest < 25
    assert missed / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_a_full_count_attacks_every_image():
    found = continue_audit(board(), Truth(4), full_count=True)
    assert found.draws == N
    assert len(found.hits) == 4
    assert "exactly 4 of the 200" in statement(found)
    assert found.upper_limit == 4


def test_statements_speak_of_this_list_and_this_attack():
    assert statement(continue_audit(board(), Truth(0))) == (
        "confirmed: at 0.05 risk, fewer than 10 of the 200 images counted robust on this list would be broken by "
        "autoattack_l2; accuracy under both attacks is at least 47.8% of 400 images"
    )
    assert statement(continue_audit(board(), Truth(200))).startswith("refuted: at least")
    part = continue_audit(board(), Truth(0), max_draws=10)
    assert statement(part) == part.statement
    assert f"at most {part.upper_limit} of the 200" in part.statement


def test_a_claim_is_the_same_only_with_the_same_list_attack_margin_and_risk():
    claims = [board().claim, board(margin="0.06").claim, board(models=4).claim]
    claims.append(claims[0].model_copy(update={"attack": {"evaluation": "autoattack_l2", "seed": 2}}))
    claims.append(claims[0].model_copy(update={"risk": "0.01"}))
    assert len({claim.sha256 for claim in claims}) == 5
    assert board(seed=1).claim.sha256 == board(seed=2).claim.sha256, "the public seed comes afterwards"
