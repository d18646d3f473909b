"""Risk-limiting audits on the board: what they say of a row, as a badge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.core.stats.audit import Outcome
from bench.reports.board.columns import BoardColumn
from bench.reports.board.run_tables import RunTables, numbers
from bench.store.audit_record import AuditRecord
from bench.trust.risk_audit import statement


@dataclass(frozen=True)
class AuditBadge:
    """What the audits of a row's models come to.

    Attributes:
        outcome: "refuted" if any of them is; else "confirmed" if any is; else "undecided".
        statement: the deciding audit's conclusion.
        attack: with what it attacked.
        margin: share of the images that may fall, as it was typed.
        risk: probability of confirming a false claim, as it was typed.
        seed: its public seed.
        draws: images that it attacked.
        hits: images that fell.
        images: images counted robust on its list, of all models that it is about.
        models: labels of these models.
        audits: audits of these models that the folder holds; the risks of those of one claim add up.
    """

    outcome: Outcome
    statement: str
    attack: str
    margin: str
    risk: str
    seed: int
    draws: int
    hits: int
    images: int
    models: tuple[str, ...]
    audits: int


_ORDER: Mapping[Outcome, int] = {"refuted": 0, "confirmed": 1, "undecided": 2}


def audit_badges(
    audits: Sequence[AuditRecord], groups: Mapping[str, list[RunTables]], ranking: BoardColumn | None
) -> dict[str, AuditBadge]:
    """Return defense to badge, for the rows all of whose models some audit is about.

    An audit counts only for the very weights and the very list of images counted robust that the board has now.

    Args:
        audits: the folder's.
        groups: defense to its runs.
        ranking: the column that ranks; None: nothing does.
    """
    if ranking is None or not audits:
        return {}
    found = {}
    for defense, runs in groups.items():
        claimed = {run.entry.label: _claimed(run, ranking) for run in runs}
        about = [audit for audit in audits if audit.draws and _is_about(audit, claimed, ranking)]
        if about:
            found[defense] = _badge(about)
    return found


def _claimed(run: RunTables, ranking: BoardColumn) -> tuple[str, tuple[int, ...]] | None:
    """Return the weights of a run and the places of its images counted robust; None where it has none yet."""
    table = run.tables.get(ranking.evaluation)
    if run.trained is None or table is None or ranking.example_column not in table.columns:
        return None
    robust = table.index[np.nan_to_num(numbers(table, ranking.example_column)) > 0]
    return str(run.trained.info.get("weights", "")), tuple(int(i) for i in robust)


def _is_about(
    audit: AuditRecord, claimed: Mapping[str, tuple[str, tuple[int, ...]] | None], ranking: BoardColumn
) -> bool:
    models = {model.run: (model.weights, model.robust) for model in audit.claim.models}
    return audit.claim.column == ranking.example_column and all(
        own is not None and models.get(label) == own for label, own in claimed.items()
    )


def _badge(audits: Sequence[AuditRecord]) -> AuditBadge:
    """Return the badge of some audits of a row; of equal outcomes the last one decides."""
    audit = min(reversed(audits), key=lambda one: _ORDER[one.outcome])
    return AuditBadge(
        outcome=audit.outcome,
        statement=statement(audit),
        attack=audit.claim.attack_name,
        margin=audit.claim.margin,
        risk=audit.claim.risk,
        seed=audit.seed,
        draws=audit.draws,
        hits=len(audit.hits),
        images=audit.claim.rule.images,
        models=tuple(model.run for model in audit.claim.models),
        audits=len(audits),
    )
