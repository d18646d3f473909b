"""Which rows are complete: all planned seeds, all images, and every evaluation that any row has finished."""

from __future__ import annotations

from collections.abc import Mapping, Set

from bench.core.records import Role
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.run_tables import RunTables

ASIDE: frozenset[Role] = frozenset({"repeat", "repeat_seed_used"})  # of columns
ACROSS: Role = "transfer"  # of what is planned only where the folder holds other rows
LISTED = 3  # evaluations that a reason names


def why_incomplete(groups: Mapping[str, list[RunTables]], ranking: BoardColumn | None) -> dict[str, str]:
    """Return why the row of each defense is incomplete, "" for a complete one.

    A mean over the seeds that did not fail is no mean over the planned ones, and a row without an evaluation has not
    passed it: such a row is not ranked. Needed are the ranking evaluation and every evaluation that some run of any
    row has finished, each on as many images as any of its finished runs has; except what may move no place. What is
    read of other rows is needed only where it was planned: a row that was alone in its folder had none to read of.

    Args:
        groups: defense to its planned runs, one per seed.
        ranking: the column that ranks; None: nothing does.
    """
    runs = [run for group in groups.values() for run in group]
    keys = dict.fromkeys(key for run in runs for key in run.records if not _aside(runs, key))
    ranks = "" if ranking is None else ranking.evaluation
    needed = {key: n for key in keys if (n := _images(runs, key, finished=True)) or key == ranks}
    if ranks in needed and not needed[ranks]:
        needed[ranks] = _images(runs, ranks, finished=False)
    across = {key for key in needed if _is_across(runs, key)}
    return {name: _reason(group, needed, across) for name, group in groups.items()}


def _aside(runs: list[RunTables], key: str) -> bool:
    """Tell whether an evaluation may move no place: a repeat of attacks is no evidence for or against a row."""
    roles = {facts.role for run in runs if key in run.tables for facts in run.tables[key].facts.values()}
    return bool(roles) and roles <= ASIDE


def _is_across(runs: list[RunTables], key: str) -> bool:
    return any(facts.role == ACROSS for run in runs if key in run.tables for facts in run.tables[key].facts.values())


def _images(runs: list[RunTables], key: str, finished: bool) -> int:
    """Return on how many images an evaluation was run at most, over its finished runs or over all."""
    return max((_measured(run, key) for run in runs if _done(run, key) or not finished), default=0)


def _done(run: RunTables, key: str) -> bool:
    record = run.records.get(key)
    return record is not None and record.status == "done"


def _measured(run: RunTables, key: str) -> int:
    return len(run.tables[key].index) if key in run.tables else 0


def _reason(runs: list[RunTables], needed: Mapping[str, int], across: Set[str]) -> str:
    """Return e.g. "1 of 4 seeds" or "1 of 2 seeds (pgd_l2 on 50 of 120 images)"; "" if nothing is missing."""
    planned = {key for run in runs for key in run.entry.evaluations}
    needed = {key: n for key, n in needed.items() if key in planned or key not in across}
    complete = {key: [run for run in runs if _done(run, key) and _measured(run, key) >= n] for key, n in needed.items()}
    whole = [run for run in runs if all(run in found for found in complete.values())]
    if len(whole) == len(runs):
        return ""
    lacking: dict[str, list[str]] = {}
    for key, found in complete.items():
        if len(found) < len(runs):
            lacking.setdefault(_lack(runs, key, len(found), needed[key]), []).append(key)
    seeds = _of(len(whole), len(runs), "seed")
    if list(lacking) == [f"on {seeds}"] and len(lacking[f"on {seeds}"]) == len(needed):
        return seeds
    return f"{seeds} ({'; '.join(f'{_listing(keys)} {lack}' for lack, keys in lacking.items())})"


def _lack(runs: list[RunTables], key: str, found: int, images: int) -> str:
    """Return what is missing of an evaluation: "on 1 of 4 seeds", "on 50 of 120 images", both, or "missing"."""
    sizes = [_measured(run, key) for run in runs if not (_done(run, key) and _measured(run, key) >= images)]
    partial = [n for n in sizes if n > 0]
    parts = [_of(found, len(runs), "seed")] if len(runs) > 1 else []
    parts += [_of(min(partial), images, "image")] if partial else []
    return f"on {', '.join(parts)}" if parts else "missing"


def _of(k: int, n: int, noun: str) -> str:
    return f"{k:,} of {formatting.plural(n, noun)}"


def _listing(keys: list[str]) -> str:
    more = [f"{len(keys) - LISTED} more"] if len(keys) > LISTED else []
    return formatting.listing([*keys[:LISTED], *more])
