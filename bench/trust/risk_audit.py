"""Carry out a risk-limiting audit: attack images in the public order until it is decided or time is up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from bench.store.audit_record import AuditHit, AuditRecord

BLOCK: Final = 100  # images attacked between two looks at the clock

Attack = Callable[[Sequence[int]], Sequence[str]]  # numbers of images to the cause of each one's fall, "" if it holds


def continue_audit(
    audit: AuditRecord,
    attack: Attack,
    *,
    full_count: bool = False,
    max_draws: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_block: Callable[[AuditRecord], None] = lambda audit: None,
) -> AuditRecord:
    """Attack the next images until the audit is decided.

    A block never reaches beyond the first draw at which the claim could be confirmed, so no image is attacked that the
    rule does not ask for, but those behind a refutation in the same block.

    Args:
        audit: where it stands; an audit that was stopped goes on.
        attack: one try per image; an image on which it failed counts as fallen, with its cause.
        full_count: attack every image, whatever is decided before.
        max_draws: stop after so many images in all.
        should_stop: asked after every block.
        on_block: is given the audit after every block.

    Returns:
        The audit as far as it has come.
    """
    rule, order = audit.claim.rule, audit.order()
    end = min(rule.images, max_draws or rule.images)
    while audit.draws < end and (full_count or audit.outcome == "undecided"):
        first = end if full_count else min(end, rule.threshold(len(audit.hits)))
        block = order[audit.draws : min(first, audit.draws + BLOCK)]
        causes = attack(block)
        hits = [
            AuditHit(draw=audit.draws + 1 + place, number=number, cause=cause)
            for place, (number, cause) in enumerate(zip(block, causes, strict=True))
            if cause
        ]
        audit = audit.model_copy(update={"draws": audit.draws + len(block), "hits": (*audit.hits, *hits)})
        audit = audit.model_copy(update={"statement": statement(audit)})
        on_block(audit)
        if should_stop():
            break
    return audit


def statement(audit: AuditRecord) -> str:
    """Return in one sentence what the audit says of its list, its attack and nothing else.

    Args:
        audit: finished or stopped.

    Returns:
        The sentence, beginning with the outcome.
    """
    rule, name = audit.claim.rule, audit.claim.attack_name
    n, broken = rule.images, len(audit.hits)
    of = f"of the {n} images counted robust on this list"
    attacked = sum(model.n for model in audit.claim.models)
    if audit.outcome == "refuted":
        return f"refuted: at least {broken} {of} fall to {name}; fewer than {rule.boundary} were claimed"
    if audit.draws == n:
        return f"confirmed: exactly {broken} {of} fall to {name}, fewer than {rule.boundary}; all were attacked"
    if audit.outcome == "confirmed":
        floor = (n - rule.boundary + 1) / attacked
        return (
            f"confirmed: at {float(rule.risk):.3g} risk, fewer than {rule.boundary} {of} would be broken by {name}; "
            f"accuracy under both attacks is at least {floor:.1%} of {attacked} images"
        )
    return (
        f"not decided after {audit.draws} images, {broken} broken: at most {audit.upper_limit} {of} would fall to "
        f"{name} ({1 - float(rule.risk):.0%} confidence)"
    )
