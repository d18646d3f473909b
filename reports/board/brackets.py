"""What is proved beside what is broken, at every budget: a bracket per row, and places that no attack can change.

An image is proved if the largest radius that any certificate gives it exceeds eps, broken if anything has broken it by
a change of at most eps, else unknown. `bench.core.stats.brackets` ranks such rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.core.best_known import best_known_columns
from bench.core.records import NORM_SYMBOLS, Column, ThreatModel
from bench.core.stats.brackets import State, bracket_ranks
from bench.reports.board.columns import BoardColumn, ranking_column, with_role
from bench.reports.board.model import Row
from bench.reports.board.parts import Bracket
from bench.reports.board.run_tables import RunTables, facts_of, numbers


@dataclass(frozen=True)
class Budget:
    """A radius of the board with what says of each image whether it is proved and whether it is broken.

    Attributes:
        threat: norm and radius.
        attack: the column of the strongest attack at it; its images are those of the bracket.
        known: the column of what nothing has broken.
        proved: the column of what is proved.
    """

    threat: ThreatModel
    attack: BoardColumn
    known: BoardColumn
    proved: BoardColumn


def with_proofs(runs: list[RunTables], columns: list[BoardColumn], threat: ThreatModel | None) -> list[RunTables]:
    """Return the runs with a column of what is proved at each budget of the board's norm at which anything is proved.

    A certificate counts for an image on which it was computed; on the others nothing is proved. Beside it comes a
    column of what nothing has broken, where the runs have none at that budget.

    Args:
        runs: with distinct names of columns.
        columns: the measured ones.
        threat: the board's; None: it has none.
    """
    for at, attack in _attacks(columns, threat):
        proved = [_proved(run, attack, at) for run in runs]
        if not any(flags is not None and flags.any() for flags in proved):
            continue
        shown = at == threat
        made = {f"proved_{at.norm}_{at.eps:g}": (proved, replace(_proved_facts(at), shown=shown))}
        if not any(at.matches(c.facts) for c in with_role(columns, "best_known")):
            ((name, facts),) = _known_facts(at).items()
            made[name] = ([_unbroken(run, attack, at) for run in runs], replace(facts, shown=shown))
        for name, (flags, facts) in made.items():
            runs = [
                run if mine is None else _with_column(run, attack.evaluation, name, mine, facts)
                for run, mine in zip(runs, flags, strict=True)
            ]
    return runs


def _attacks(columns: Iterable[BoardColumn], threat: ThreatModel | None) -> list[tuple[ThreatModel, BoardColumn]]:
    """Return the budgets in the board's norm by rising radius, each with the column of its strongest attack."""
    if threat is None:
        return []
    robust = [c for c in with_role(columns, "robust") if c.facts.params.get("norm") == threat.norm]
    budgets = [ThreatModel(threat.norm, eps) for eps in sorted({c.level for c in robust if c.level is not None})]
    found = [(budget, ranking_column(robust, budget)) for budget in budgets]
    return [(budget, attack) for budget, attack in found if attack is not None]


def _proved_facts(at: ThreatModel) -> Column:
    """Return what the column of proved images at a budget is."""
    return Column(
        f"Proved right within {at.eps:g} ({at.norm}) by the best of all certificates that were computed.",
        kind="flag",
        board=f"certified_{at.norm}_{at.eps:g}",
        aggregate="fraction",
        direction="higher",
        role="certified",
        params={"norm": at.norm, "eps": at.eps},
        formula="right, and the largest certified radius > eps",
        source="docs/theory.md, section 6",
        interval="wilson",
        heading=f"Proved {NORM_SYMBOLS.get(at.norm, at.norm)}",
    )


def _known_facts(at: ThreatModel) -> dict[str, Column]:
    """Return what the column of unbroken images at a budget is, by its name."""
    declared = best_known_columns(
        at.norm,
        description="Right under every attack of this row, by any change of at most eps that it found.",
        formula="right, and no attack at this budget or a smaller one, and no search, broke it within eps",
        source="all attacks of the row",
    )
    ((pattern, facts),) = declared.items()
    name, params = pattern.format(eps=f"{at.eps:g}"), {**facts.params, "eps": at.eps}
    return {name: replace(facts, board=name.removesuffix("_robust"), params=params)}


def _with_column(run: RunTables, key: str, name: str, values: np.ndarray, facts: Column) -> RunTables:
    """Return a run with one more column in one of its tables."""
    table = run.tables[key]
    table = replace(table, columns={**table.columns, name: values}, facts={**table.facts, name: facts})
    return replace(run, tables={**run.tables, key: table})


def _proved(run: RunTables, attack: BoardColumn, threat: ThreatModel) -> np.ndarray | None:
    """Return which images of an attack's column are proved, (n,); None where the run lacks it."""
    verdicts = _values(run, attack.evaluation, attack.example_column)
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


def _unbroken(run: RunTables, attack: BoardColumn, threat: ThreatModel) -> np.ndarray | None:
    """Return which images of an attack's column nothing has broken within a radius, (n,); None without it."""
    verdicts = _values(run, attack.evaluation, attack.example_column)
    if verdicts is None:
        return None
    index, flags = verdicts[0], verdicts[1] == 1
    for key in run.tables:
        for name, facts in facts_of([run], key).items():
            if facts.params.get("norm") != threat.norm:
                continue
            if facts.role in {"distance", "breaking"}:
                flags &= ~(_at(index, _values(run, key, name)) <= threat.eps)
            elif facts.role in {"robust", "best_known"} and facts.level is not None and facts.level[1] <= threat.eps:
                flags &= _at(index, _values(run, key, name)) != 0
    return flags


def budgets(columns: Sequence[BoardColumn], threat: ThreatModel | None) -> list[Budget]:
    """Return the budgets at which anything is proved, by rising radius.

    Args:
        columns: the measured columns, those of `with_proofs` among them.
        threat: the board's; None: it has none.
    """
    found = []
    for at, attack in _attacks(columns, threat):
        name = f"certified_{at.norm}_{at.eps:g}"
        proved = next((c for c in columns if c.name == name and c.evaluation == attack.evaluation), None)
        known = next((c for c in with_role(columns, "best_known") if at.matches(c.facts)), None)
        if proved is not None and known is not None:
            found.append(Budget(at, attack, known, proved))
    return found


def with_brackets(rows: list[Row], groups: Mapping[str, Sequence[RunTables]], known: Sequence[Budget]) -> list[Row]:
    """Return the rows with their brackets at some budgets.

    Randomised rows have their proved places among themselves.

    Args:
        rows: with their places.
        groups: defense to its runs.
        known: the budgets at which anything is proved.
    """
    for budget in known:
        columns = budget.attack, budget.known, budget.proved
        found = {row.defense: _states(groups[row.defense], columns) for row in rows}
        made = {name: bracket for name, pair in found.items() if (bracket := _bracket(budget, *pair)) is not None}
        for places in ("rank", "rank_randomised"):
            made |= _placed(made, found, [row.defense for row in rows if getattr(row, places) is not None])
        rows = [
            replace(row, brackets=(*row.brackets, made[row.defense])) if row.defense in made else row for row in rows
        ]
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


def _bracket(budget: Budget, index: np.ndarray, states: np.ndarray) -> Bracket | None:
    """Return a row's bracket at a budget; None where its outcomes are not complete."""
    if not states.size:
        return None
    shares = float((states == State.PROVED).mean()), float((states != State.BROKEN).mean())
    return Bracket(*shares, len(index), budget.threat.eps)


def _placed(
    made: Mapping[str, Bracket], found: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: Sequence[str]
) -> dict[str, Bracket]:
    """Return the brackets of some defenses with their proved places among themselves.

    Several seeds: proved is what is proved on each, broken what is broken on each.
    """
    chosen = [name for name in chosen if name in made]
    chosen = [name for name in chosen if np.array_equal(found[name][0], found[chosen[0]][0])]
    if not chosen:
        return {}
    each = [found[name][1] for name in chosen]
    common = np.array([np.where(s.min(0) == s.max(0), s[0], State.UNKNOWN) for s in each])
    ranks = bracket_ranks(common)
    places = zip(chosen, ranks.low, ranks.high, strict=True)
    return {name: replace(made[name], rank_low=int(low), rank_high=int(high)) for name, low, high in places}
