"""What is proved beside what is broken at the board's threat: a bracket per row, and places that no attack can change.

An image is proved if the largest radius that any certificate gives it exceeds eps, broken if anything has broken it,
else unknown. `bench.core.stats.brackets` ranks such rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.core.records import NORM_SYMBOLS, Column, ThreatModel
from bench.core.stats.brackets import State, bracket_ranks
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.model import Row
from bench.reports.board.parts import Bracket
from bench.reports.board.run_tables import RunTables, facts_of, numbers


def with_proofs(runs: list[RunTables], ranking: BoardColumn | None, threat: ThreatModel | None) -> list[RunTables]:
    """Return the runs with a column of what is proved at the threat, beside the one that ranks, if anything is.

    A certificate counts for an image on which it was computed; on the others nothing is proved.

    Args:
        runs: with distinct names of columns.
        ranking: the column that ranks; None: nothing does.
        threat: the board's; None: it has none.
    """
    if ranking is None or threat is None:
        return runs
    proved = [_proved(run, ranking, threat) for run in runs]
    if not any(flags is not None and flags.any() for flags in proved):
        return runs
    name = f"proved_{threat.norm}_{threat.eps:g}"
    facts = Column(
        f"Proved right within {threat.eps:g} ({threat.norm}) by the best of all certificates that were computed.",
        kind="flag",
        board=f"certified_{threat.norm}_{threat.eps:g}",
        aggregate="fraction",
        direction="higher",
        role="certified",
        params={"norm": threat.norm, "eps": threat.eps},
        formula="right, and the largest certified radius > eps",
        source="docs/theory.md, section 6",
        interval="wilson",
        heading=f"Proved {NORM_SYMBOLS.get(threat.norm, threat.norm)}",
    )
    return [
        run if flags is None else _with_column(run, ranking.evaluation, name, flags, facts)
        for run, flags in zip(runs, proved, strict=True)
    ]


def _with_column(run: RunTables, key: str, name: str, values: np.ndarray, facts: Column) -> RunTables:
    """Return a run with one more column in one of its tables."""
    table = run.tables[key]
    table = replace(table, columns={**table.columns, name: values}, facts={**table.facts, name: facts})
    return replace(run, tables={**run.tables, key: table})


def _proved(run: RunTables, ranking: BoardColumn, threat: ThreatModel) -> np.ndarray | None:
    """Return which images of the ranking column are proved, (n,); None where the run lacks it."""
    verdicts = _values(run, ranking.evaluation, ranking.example_column)
    if verdicts is None:
        return None
    radius = np.zeros(len(verdicts[0]))
    randomised = bool(run.trained is not None and run.trained.info.get("randomised"))
    for key in run.tables:
        for name, facts in facts_of([run], key).items():
            if _proves(facts, threat, randomised):
                radius = np.fmax(radius, _at(verdicts[0], _values(run, key, name)))
    flags: np.ndarray = radius > threat.eps
    return flags


def with_brackets(
    rows: list[Row],
    groups: Mapping[str, Sequence[RunTables]],
    columns: list[BoardColumn],
    ranking: BoardColumn | None,
    threat: ThreatModel | None,
) -> list[Row]:
    """Return the rows with their brackets, as they are where nothing is proved of any.

    Randomised rows have their proved places among themselves.

    Args:
        rows: with their places.
        groups: defense to its runs.
        columns: the measured columns.
        ranking: the one that ranks; None: nothing does.
        threat: the board's; None: it has none.
    """
    if ranking is None or threat is None:
        return rows
    proved = [c for c in with_role(columns, "certified") if c.evaluation == ranking.evaluation]
    if not proved:
        return rows
    known = next((c for c in with_role(columns, "best_known") if threat.matches(c.facts)), ranking)
    found = {row.defense: _states(groups[row.defense], (ranking, known, proved[0])) for row in rows}
    rows = [_with_bracket(row, *found[row.defense]) for row in rows]
    for places in ("rank", "rank_randomised"):
        rows = _placed(rows, found, [row for row in rows if getattr(row, places) is not None])
    return rows


def _states(
    runs: Sequence[RunTables], columns: tuple[BoardColumn, BoardColumn, BoardColumn]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of the ranking column and the state of each on every seed, (S, n); empty where incomplete."""
    index, states = np.zeros(0, dtype=np.int64), list[np.ndarray]()
    for run in runs:
        verdicts, known, proved = (_values(run, c.evaluation, c.example_column) for c in columns)
        if verdicts is None or (states and not np.array_equal(index, verdicts[0])):
            return index, np.zeros((0, 0), dtype=np.int64)
        index, robust = verdicts
        broken = (robust == 0) | (_at(index, known) == 0)
        unbroken = np.where(_at(index, proved) == 1, State.PROVED, State.UNKNOWN)
        states.append(np.where(broken, State.BROKEN, unbroken))
    return index, np.array(states)


def _proves(facts: Column, threat: ThreatModel, randomised: bool) -> bool:
    """Return whether a column is a radius that holds for what the row's attacks were judged by."""
    radius = facts.role == "certified" and facts.kind == "value" and facts.params.get("norm") == threat.norm
    return radius and (facts.params.get("of", "votes") == "votes" if randomised else "of" not in facts.params)


def _values(run: RunTables, key: str, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the images of a run's table, and the values of one column; None where the run lacks it."""
    table = run.tables.get(key)
    return None if table is None or name not in table.columns else (table.index, numbers(table, name))


def _at(index: np.ndarray, found: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
    """Return values at the given images, NaN where there are none; both lists of images ascend."""
    values = np.full(len(index), np.nan)
    if found is not None:
        _, here, there = np.intersect1d(index, found[0], assume_unique=True, return_indices=True)
        values[here] = found[1][there]
    return values


def _with_bracket(row: Row, index: np.ndarray, states: np.ndarray) -> Row:
    """Return a row with its bracket; as it is where its outcomes are not complete."""
    if not states.size:
        return row
    shares = float((states == State.PROVED).mean()), float((states != State.BROKEN).mean())
    return replace(row, bracket=Bracket(*shares, len(index)))


def _placed(rows: list[Row], found: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: list[Row]) -> list[Row]:
    """Return the rows, those chosen with their proved places among themselves.

    Several seeds: proved is what is proved on each, broken what is broken on each.
    """
    chosen = [row for row in chosen if row.bracket is not None]
    first = found[chosen[0].defense][0] if chosen else np.zeros(0)
    chosen = [row for row in chosen if np.array_equal(found[row.defense][0], first)]
    if not chosen:
        return rows
    each = [found[row.defense][1] for row in chosen]
    common = np.array([np.where(s.min(0) == s.max(0), s[0], State.UNKNOWN) for s in each])
    ranks = bracket_ranks(common)
    places = {row.defense: (int(ranks.low[i]), int(ranks.high[i])) for i, row in enumerate(chosen)}
    return [
        replace(row, bracket=replace(row.bracket, rank_low=places[row.defense][0], rank_high=places[row.defense][1]))
        if row.bracket is not None and row.defense in places
        else row
        for row in rows
    ]
