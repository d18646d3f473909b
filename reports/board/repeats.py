"""What each attack alone broke on a model, and the bound on a repeat of the same attacks; neither moves any number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.core.records import Column, ThreatModel
from bench.core.stats.repeat import KindRuns, OnlyBy, RepeatBound, only_by, repeat_bound, sentence
from bench.reports.board.run_tables import RunTables, Table, numbers
from bench.trust.records import TrustReport

UNCHECKED: Final = "the model was not checked for masked gradients"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The repeated attacks on one model.

    Attributes:
        kinds: what each kind of attack broke, and broke alone.
        bound: on what one more run of each would break.
    """

    kinds: tuple[OnlyBy, ...]
    bound: RepeatBound

    @property
    def sentence(self) -> str:
        """The one sentence that may be printed of the bound."""
        return sentence(self.bound)


def repeats(
    runs: Sequence[RunTables], threat: ThreatModel | None, reports: Mapping[int, TrustReport]
) -> dict[int, Repeat]:
    """Return seed to the repeated attacks, of the runs of one defense for which they are finished.

    Args:
        runs: of the defense.
        threat: at which they are read; None: there is none.
        reports: seed to what the checks of trust say; without one the bound is not assessable.
    """
    found: dict[int, Repeat] = {}
    for run in runs:
        for key, table in run.tables.items():
            record = run.records.get(key)
            kinds = _kinds(table, threat) if threat is not None and record and record.status == "done" else []
            if kinds:
                found.setdefault(run.seed, _repeat(kinds, reports.get(run.seed)))
    return found


def _repeat(kinds: Sequence[KindRuns], report: TrustReport | None) -> Repeat:
    failed = [result.name for result in report.failed] if report else []
    return Repeat(tuple(only_by(kinds)), repeat_bound(kinds, failed, obstacles=() if report else (UNCHECKED,)))


def _kinds(table: Table, threat: ThreatModel) -> list[KindRuns]:
    """Return the runs of each kind of attack at a threat, on the images that are right without one."""
    names: dict[str, dict[int, str]] = {}  # kind to run to column
    seeds: dict[str, str] = {}
    facts: dict[str, Column] = {}
    for name, column in table.facts.items():
        kind = str(column.params.get("kind"))
        if column.role == "repeat" and threat.matches(column):
            names.setdefault(kind, {})[int(column.params["run"])] = name
            facts[kind] = column
        elif column.role == "repeat_seed_used" and threat.matches(column):
            seeds[kind] = name
    if not names:
        return []
    values = {k: np.stack([numbers(table, runs[r]) for r in sorted(runs)]) for k, runs in names.items()}
    attacked = ~np.isnan(next(iter(values.values()))[0])
    return [
        KindRuns(
            kind,
            v[:, attacked] == 1,
            has_random_part=facts[kind].params.get("random") == 1,
            seed_changes_points=kind not in seeds or _moved(numbers(table, seeds[kind])),
        )
        for kind, v in values.items()
    ]


def _moved(used: np.ndarray) -> bool:
    """Tell whether a second seed gave another point anywhere; True where no image had a second run."""
    return bool(np.isnan(used).all() or np.nanmax(used) == 1)
