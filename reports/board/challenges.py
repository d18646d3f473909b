"""Accepted challenges on the board: they lower what is known to be robust, beside the attack's own verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from bench.core.best_known import best_known_columns
from bench.core.records import Column, ThreatModel, expand_columns
from bench.reports.board.columns import BoardColumn
from bench.reports.board.run_tables import RunTables, Table, Values
from bench.store.challenge_record import Challenge
from bench.store.plan_record import PlanRecord

DESCRIPTION: Final = (
    "Right on the image, under the attack, and on every adversarial example that an accepted challenge brought."
)
SOURCE: Final = "the board's challenges, verified by the judge of attacks"


@dataclass(frozen=True)
class AppliedChallenge:
    """A challenge, and what it changed on the board.

    Attributes:
        challenge: as it was stored.
        column: name of the board column that it lowers.
        lowered: places of the images that were counted robust by everything known before it.
    """

    challenge: Challenge
    column: str
    lowered: tuple[int, ...]


def counts_transfer(column: BoardColumn) -> bool:
    """Return whether what is known to be robust counts the other rows' adversarial examples, not challenges alone.

    Args:
        column: of what is known to be robust.
    """
    return column.facts.source != SOURCE


def apply_challenges(
    plan: PlanRecord, runs: Sequence[RunTables], challenges: Sequence[Challenge]
) -> tuple[list[RunTables], tuple[AppliedChallenge, ...]]:
    """Return the runs with the best known robust flags lowered, and the challenges that belong to them.

    The column is the one that the transfer between rows has made, where it has; else one beside the flags of the
    highest-ranked attack at the threat, for all rows, so that they stay comparable. A challenge counts for the very
    weights that it broke, and for images of the same label.

    Args:
        plan: as `Store.plans.latest` returns it.
        runs: its runs, as loaded.
        challenges: the folder's, the oldest first.
    """
    found, applied = list(runs), list[AppliedChallenge]()
    places = {weights: n for n, run in enumerate(found) if (weights := _weights(run))}
    for challenge in challenges:
        place = places.get(challenge.weights)
        if place is None or challenge.data != plan.data.name or not _is_of(found[place], challenge):
            continue
        threat = ThreatModel(challenge.norm, challenge.eps)
        found = [_with_column(run, threat) for run in found]
        run, lowered = _lowered(found[place], threat, challenge)
        found[place] = run
        applied.append(AppliedChallenge(challenge, _name(threat), lowered))
    return found, tuple(applied)


def _weights(run: RunTables) -> str:
    return str(run.trained.info.get("weights", "")) if run.trained else ""


def _is_of(run: RunTables, challenge: Challenge) -> bool:
    return (run.defense, run.seed) == (challenge.defense, challenge.seed)


def _name(threat: ThreatModel) -> str:
    return f"best_known_{threat.norm}_{threat.eps:g}"


def _with_column(run: RunTables, threat: ThreatModel) -> RunTables:
    """Return a run with a column of best known flags at a threat, if its evaluations allow one."""
    if _find(run, threat) is not None:
        return run
    ranked = [
        (column.ranks, key, name)
        for key, table in run.tables.items()
        for name, column in table.facts.items()
        if column.role == "robust" and threat.matches(column) and not name.startswith("train_")
    ]
    if not ranked:
        return run
    _, key, name = max(ranked, key=lambda one: one[0])
    table = run.tables[key]
    formula = "attack robust ∧ no accepted challenge"
    declared = best_known_columns(threat.norm, description=DESCRIPTION, formula=formula, source=SOURCE)
    facts = expand_columns(declared, {"eps": threat.eps})
    return _replaced(run, key, next(iter(facts)), table.columns[name], {**table.facts, **facts})


def _find(run: RunTables, threat: ThreatModel) -> tuple[str, str] | None:
    """Return evaluation and name of a run's column of best known flags at a threat; None without one."""
    for key, table in run.tables.items():
        for name, column in table.facts.items():
            if column.role == "best_known" and threat.matches(column):
                return key, name
    return None


def _lowered(run: RunTables, threat: ThreatModel, challenge: Challenge) -> tuple[RunTables, tuple[int, ...]]:
    """Return a run with the challenge's images counted broken, and which of them were counted robust before."""
    place = _find(run, threat)
    if place is None:
        return run, ()
    key, name = place
    table = run.tables[key]
    labels = {entry.index: entry.label for entry in challenge.entries}
    hit = np.isin(table.index, list(labels))
    hit &= table.label == np.array([labels.get(i, -1) for i in table.index.tolist()])
    before = table.columns[name]
    known = np.asarray(pd.array(before, dtype="boolean").fillna(False), dtype=bool)
    after: Values = before.copy()
    after[hit & known] = False
    lowered = tuple(int(i) for i in table.index[hit & known])
    return _replaced(run, key, name, after, table.facts), lowered


def _replaced(run: RunTables, key: str, name: str, values: Values, facts: Mapping[str, Column]) -> RunTables:
    """Return a run with one column of one table replaced or added."""
    table = run.tables[key]
    new = Table(table.index, table.label, {**table.columns, name: values}, facts)
    return replace(run, tables={**run.tables, key: new})
