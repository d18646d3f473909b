"""Places: which rows can be ranked, their ranges, and every pair compared."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from bench.core.stats.ranks import ranks, smallest_resolvable_gap
from bench.core.stats.seeds import variance_components
from bench.reports.board.columns import BoardColumn
from bench.reports.board.completeness import why_incomplete
from bench.reports.board.model import Row
from bench.reports.board.parts import Apart, Pair
from bench.reports.board.run_tables import RunTables, numbers

NOT_RUN = "the ranking column was not run"


def rank_rows(
    rows: list[Row], groups: dict[str, list[RunTables]], ranking: BoardColumn | None
) -> tuple[list[Row], list[Pair], float | None]:
    """Return the rows with their places, ranked ones first, the pairs, and the smallest gap that n resolves.

    Randomised rows are judged by votes, which is another measurement: they have places among themselves, hold none of
    the others', and are in no pair.

    Args:
        rows: of all defenses.
        groups: defense to its runs.
        ranking: the column that ranks; None: nothing does.
    """
    plain = [row for row in rows if not row.randomised]
    found, pairs, gap = _rank_track(plain, {row.defense: groups[row.defense] for row in plain}, ranking)
    votes = [row for row in rows if row.randomised]
    apart, _, _ = _rank_track(votes, {row.defense: groups[row.defense] for row in votes}, ranking)
    placed = sum(row.rank is not None for row in found)
    return [*found[:placed], *_set_apart(apart), *found[placed:]], pairs, gap


def _set_apart(rows: list[Row]) -> list[Row]:
    """Return randomised rows with their places moved to where no other row's place is."""
    ranked = sum(row.rank is not None for row in rows)
    return [
        row
        if row.rank is None
        else replace(
            row,
            rank=None,
            rank_low=None,
            rank_high=None,
            apart=Apart(row.rank, row.rank_low or row.rank, row.rank_high or row.rank, ranked),
            unranked=f"randomised, judged by votes: place {row.rank} of {ranked} among randomised rows",
        )
        for row in rows
    ]


def _rank_track(
    rows: list[Row], groups: dict[str, list[RunTables]], ranking: BoardColumn | None
) -> tuple[list[Row], list[Pair], float | None]:
    """Return the rows of one track as `rank_rows` does."""
    lacks = why_incomplete(groups, ranking)
    rows = sorted((replace(row, incomplete=lacks[row.defense]) for row in rows), key=lambda row: row.incomplete != "")
    if ranking is None:
        return [replace(row, unranked=row.doubt or NOT_RUN) for row in rows], [], None
    outcomes = {row.defense: _outcomes(groups[row.defense], ranking) for row in rows}
    sizes = [outcomes[row.defense][1] for row in rows if not row.incomplete]
    reference = max((index for index in sizes if index is not None), key=len, default=None)
    rows = [replace(row, unranked=_why_not(row, *outcomes[row.defense], reference)) for row in rows]
    chosen = [row for row in rows if not row.unranked]
    chosen.sort(key=lambda row: -float(outcomes[row.defense][0].mean()))
    result = ranks([outcomes[row.defense][0] for row in chosen])
    bounds = [row for row in rows if row.is_upper_bound]
    bounds.sort(key=lambda row: -(row.value(ranking) or 0.0))
    placed = [
        replace(
            row,
            rank=int(result.place[i]),
            rank_low=int(result.low[i]),
            rank_high=int(result.high[i]),
            variance=variance_components(outcomes[row.defense][0][:, None, :]),
        )
        for i, row in enumerate(chosen)
    ]
    pairs = [
        Pair(placed[i].defense, placed[j].defense, **asdict(paired), p_holm=float(result.p[i, j]))
        for (i, j), paired in result.pairs.items()
    ]
    gap = None
    if pairs and reference is not None:
        gap = smallest_resolvable_gap(len(reference), result.discordance, len(pairs))
    return placed + bounds + [row for row in rows if row.unranked and not row.is_upper_bound], pairs, gap


def _outcomes(runs: list[RunTables], ranking: BoardColumn) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the flags of the ranking column, shape (S, n), and their images (n,); None if the runs' differ."""
    tables = [run.tables[ranking.evaluation] for run in runs if ranking.evaluation in run.tables]
    tables = [table for table in tables if ranking.example_column in table.columns]
    values = [numbers(table, ranking.example_column) for table in tables]
    same = all(np.array_equal(tables[0].index, table.index) for table in tables[1:])
    if not values or not same or any(np.isnan(v).any() for v in values):
        return np.zeros((len(values), 0), dtype=bool), None
    return np.array(values, dtype=bool), tables[0].index


def _why_not(row: Row, flags: np.ndarray, index: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Return why a row cannot be ranked, "" if it can."""
    if row.doubt:
        return row.doubt
    if not len(flags):
        return NOT_RUN
    if index is None:
        return "its models were not evaluated on the same images"
    if reference is None or not np.array_equal(index, reference):
        return "not evaluated on the images of the others"
    return ""
