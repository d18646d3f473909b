"""From the store to the board: join per-example tables, aggregate, rank. Every number of every report is made here.

Board columns derive from the columns that the plan's evaluations declare; the only evaluations known by name are
those that rank. Missing is missing: NaN is left out of means and counted as null, never taken for 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bench.core.files import safe_name
from bench.core.stats.intervals import fraction_interval
from bench.core.stats.ranks import ranks, smallest_resolvable_gap
from bench.core.stats.seeds import variance_components
from bench.reports.board.examples import RunTables, columns_of, load, numbers, pictures, renamed, stack
from bench.reports.board.model import OWN, Board, BoardColumn, Cell, Pair, Row
from bench.reports.claims import verdicts
from bench.store.plan_record import PlanRecord
from bench.store.store import Store

RANKED_BY = ("autoattack_l2", "pgd_l2")  # at the suite's primary_eps; the first that was run
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"


def build(store: Store, plan: PlanRecord | None = None) -> Board:
    """Return the board of a plan, by default of the last command's.

    Args:
        store: an open store.
        plan: as `Store.plans.latest` returns it.

    Raises:
        StoreError: no plan, or tables of one plan that disagree about an image's label.
        IntegrityError: a stored chunk does not match its SHA-256.
    """
    plan = plan or store.plans.latest()
    runs = renamed(plan, [load(store, plan, entry) for entry in plan.rows])
    columns = _columns(plan, runs)
    ranking = _ranking(plan, columns)
    groups: dict[str, list[RunTables]] = {}
    for run in runs:
        groups.setdefault(run.entry.defense, []).append(run)
    rows = _with_cost([_row(name, group, columns, ranking) for name, group in groups.items()])
    rows, pairs, gap = _rank(rows, groups, ranking)
    board = Board(
        plan=plan,
        rows=tuple(rows),
        columns=tuple(_among_own(columns, trust=any(row.trust for row in rows))),
        examples=stack(plan, runs, "test"),
        ranking=ranking.name if ranking else "",
        resolvable=gap,
        logs={(run.entry.defense, run.entry.seed): run.log for run in runs if run.log},
        train_examples=stack(plan, runs, "train"),
        pairs=tuple(pairs),
        pictures=pictures(store, groups, ranking.evaluation if ranking else ""),
    )
    return replace(board, claims=verdicts.check(board))


def _columns(plan: PlanRecord, runs: list[RunTables]) -> list[BoardColumn]:
    """Return the measured columns: fractions before other numbers, otherwise in the plan's order."""
    found: dict[str, tuple[tuple[Any, ...], BoardColumn]] = {}
    for place, (key, facts) in enumerate(plan.evaluations.items()):
        split = "train_" if facts.split == "train" else ""
        present = columns_of(runs, key)
        for order, (pattern, words) in enumerate(facts.columns.items()):
            if not words.board:
                continue
            for name in present:
                for prefix in (split, f"{split}{key}_"):
                    numbers = _match(pattern, name.removeprefix(prefix)) if name.startswith(prefix) else None
                    if numbers is not None:
                        board = prefix + words.board.format(**numbers)
                        number = _number(board, numbers)
                        column = BoardColumn(board, words, key, name, number)
                        sort = (column.facts.aggregate != "fraction", place, order, number or 0.0)
                        found.setdefault(board, (sort, column))
                        break
    return [column for _, column in sorted(found.values(), key=lambda pair: pair[0])]


def _number(board: str, numbers: dict[str, str]) -> float | None:
    """Return the budget or radius in a column's name: of its placeholder, else what it ends in."""
    found = next(iter(numbers.values()), None)
    if found is None and (match := re.fullmatch(rf".*_{_NUMBER}", board)):
        found = match[1]
    return None if found is None else float(found)


def _match(pattern: str, name: str) -> dict[str, str] | None:
    """Return the numbers that `name` has in the placeholders of `pattern`, None if it is not of that form."""
    placeholders = re.findall(r"\{(\w+)\}", pattern)
    parts = [re.escape(part) for part in re.split(r"\{\w+\}", pattern)]
    match = re.fullmatch(_NUMBER.join(parts), name)
    return dict(zip(placeholders, match.groups(), strict=True)) if match else None


def _among_own(measured: list[BoardColumn], trust: bool) -> list[BoardColumn]:
    """Return the columns in the order of leaderboard.csv: who, what was measured, trust, violations, cost."""
    head, grades, costs = OWN[:6], OWN[6:8] if trust else (), OWN[8:]
    # Violations are a fact of the row, like its trust: the column is the board's own.
    violations = [replace(c, evaluation="") for c in measured if c.name == "bound_violations"]
    return [*head, *(c for c in measured if c.name != "bound_violations"), *grades, *violations, *costs]


def _ranking(plan: PlanRecord, columns: list[BoardColumn]) -> BoardColumn | None:
    """Return the column that ranks, None if neither was run."""
    eps = plan.suite.primary_eps
    names = [f"{name}_{eps:g}" for name in RANKED_BY] if eps is not None else []
    known = {column.name: column for column in columns}
    return next((known[name] for name in names if name in known), None)


# Rows


def _cell(runs: list[RunTables], column: BoardColumn) -> Cell | None:
    """Return the number of one column for one defense, None if no model of it has the column."""
    by_seed: dict[int, float] = {}
    nulls, measured, images = 0, 0, []
    for run in runs:
        table = run.tables.get(column.evaluation)
        if table is None or column.example_column not in table.columns:
            continue
        values = numbers(table, column.example_column)
        valid = ~np.isnan(values)
        nulls, measured = nulls + int((~valid).sum()), measured + 1
        if valid.any():
            values = values[valid]
            by_seed[run.entry.seed] = float(values.sum() if column.facts.aggregate == "sum" else values.mean())
            images.append(table.index[valid])
    if not measured:
        return None
    if not by_seed:
        return Cell(None, nulls=nulls)
    seen = np.zeros(1 + max(int(index.max()) for index in images), dtype=bool)
    for index in images:
        seen[index] = True
    n = int(seen.sum())
    # Events (violations) add up over models; everything else is the mean over them.
    value = float(
        np.sum(list(by_seed.values())) if column.facts.aggregate == "sum" else np.mean(list(by_seed.values()))
    )
    low, high = fraction_interval(value, n) if column.facts.aggregate == "fraction" else (None, None)
    return Cell(value, low, high, by_seed, n, nulls)


def _row(name: str, runs: list[RunTables], columns: list[BoardColumn], ranking: BoardColumn | None) -> Row:
    """Return the row of one defense, not yet ranked."""
    cells = {column.name: cell for column in columns if (cell := _cell(runs, column)) is not None}
    violations = cells["bound_violations"].value if "bound_violations" in cells else None
    trust, failed = _trust(runs)
    if violations:
        trust, failed = "INVALID", (*failed, "bounds")
    done = [[r.info for r in run.records.values() if r and r.status == "done"] for run in runs]
    return Row(
        rank=None,
        rank_low=None,
        rank_high=None,
        defense=name,
        anchor=safe_name(name),
        seeds=tuple(run.entry.seed for run in runs if run.tables),
        n=_images(cells, ranking),
        cells=cells,
        trust=trust,
        trust_failed=failed,
        bound_violations=None if violations is None else int(violations),
        train_seconds=_mean(r.trained.info.get("seconds") for r in runs if r.trained and r.trained.status == "done"),
        eval_seconds=_mean(sum(i.get("seconds", 0.0) for i in infos) for infos in done if infos),
        eval_forwards=_count(sum(i.get("forwards", 0) for i in infos) for infos in done if infos),
        eval_backwards=_count(sum(i.get("backwards", 0) for i in infos) for infos in done if infos),
        facts={run.entry.seed: _facts(run) for run in runs},
        failures=tuple(line for run in runs for line in _failures(run)),
        missing=tuple(line for run in runs for line in _missing(run)),
    )


def _images(cells: dict[str, Cell], ranking: BoardColumn | None) -> int:
    """Return the distinct images of the ranking column; where nothing ranks, of the column that has most."""
    if ranking is None:
        return max((cell.n for cell in cells.values()), default=0)
    return cells[ranking.name].n if ranking.name in cells else 0


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _count(values: Iterable[float]) -> int | None:
    mean = _mean(values)
    return None if mean is None else round(mean)


def _facts(run: RunTables) -> dict[str, Any]:
    """Return the plan's entry of a model with what the store knows of its cells."""
    records = {key: r for key, r in run.records.items() if r}
    return {
        **run.entry.model_dump(mode="json"),
        "training": run.trained.info if run.trained else {},
        "status": {key: r.status for key, r in records.items()},
        "info": {key: r.info for key, r in records.items()},
    }


def _failures(run: RunTables) -> list[str]:
    seed = run.entry.seed
    cells = [("training", run.trained), *run.records.items()]
    return [f"{what}, seed {seed}: {r.error or 'no cause stored'}" for what, r in cells if r and r.status == "failed"]


def _missing(run: RunTables) -> list[str]:
    seed = run.entry.seed
    lines = []
    if run.entry.train_cell and (run.trained is None or run.trained.status in ("pending", "running")):
        lines.append(f"training, seed {seed}: {len(run.log)} epochs so far")
    for key, record in run.records.items():
        if record is None or record.status in ("pending", "running"):
            lines.append(f"{key}, seed {seed}: {len(run.tables[key].index) if key in run.tables else 0} images so far")
    return lines


def _trust(runs: list[RunTables]) -> tuple[str, tuple[str, ...]]:
    """Return the worst grade over the models and all failed checks; evaluations store them as info["trust"]."""
    found = [i for run in runs for r in run.records.values() if r and (i := r.info.get("trust"))]
    if not found:
        return "", ()
    failed = (name for t in found for name, check in t.get("checks", {}).items() if check["verdict"] == "fail")
    return max((t["grade"] for t in found), key=("A", "B", "C", "INVALID").index), tuple(dict.fromkeys(failed))


def _with_cost(rows: list[Row]) -> list[Row]:
    """Fill in the training time relative to Standard's in the same run."""
    bases = [row for row in rows if next(iter(row.facts.values()))["base"] == "standard"]
    standard = next((r for r in bases if r.defense == "standard"), bases[0] if bases else None)
    if standard is None or not standard.train_seconds:
        return rows
    unit = standard.train_seconds
    return [replace(r, train_cost=None if r.train_seconds is None else r.train_seconds / unit) for r in rows]


# Ranks


def _rank(
    rows: list[Row], groups: dict[str, list[RunTables]], ranking: BoardColumn | None
) -> tuple[list[Row], list[Pair], float | None]:
    """Return the rows with their places, ranked ones first, the pairs, and the smallest gap that n resolves."""
    if ranking is None:
        return [replace(row, unranked="the ranking column was not run") for row in rows], [], None
    outcomes = {row.defense: _outcomes(groups[row.defense], ranking) for row in rows}
    sizes = [index for _, index in outcomes.values() if index is not None]
    reference = max(sizes, key=len, default=None)
    rows = [replace(row, unranked=_why_not(row, *outcomes[row.defense], reference)) for row in rows]
    rows = [_failed(row, ranking) for row in rows]
    chosen = [row for row in rows if not row.unranked]
    chosen.sort(key=lambda row: -float(outcomes[row.defense][0].mean()))
    result = ranks([outcomes[row.defense][0] for row in chosen])
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
    gap = smallest_resolvable_gap(len(reference), result.discordance) if pairs and reference is not None else None
    return placed + [row for row in rows if row.unranked], pairs, gap


def _failed(row: Row, ranking: BoardColumn) -> Row:
    """Say that the ranking evaluation failed where that, and not a choice, is why it has no column."""
    failed = any(line.startswith(f"{ranking.evaluation},") for line in row.failures)
    return replace(row, unranked="its ranking evaluation failed") if failed and row.unranked == _NOT_RUN else row


_NOT_RUN = "the ranking column was not run"


def _outcomes(runs: list[RunTables], ranking: BoardColumn) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the flags of the ranking column, shape (S, n), and their images (n,); None if the models' differ."""
    tables = [run.tables[ranking.evaluation] for run in runs if ranking.evaluation in run.tables]
    tables = [table for table in tables if ranking.example_column in table.columns]
    values = [numbers(table, ranking.example_column) for table in tables]
    same = all(np.array_equal(tables[0].index, table.index) for table in tables[1:])
    if not values or not same or any(np.isnan(v).any() for v in values):
        return np.zeros((len(values), 0), dtype=bool), None
    return np.array(values, dtype=bool), tables[0].index


def _why_not(row: Row, flags: np.ndarray, index: np.ndarray | None, reference: np.ndarray | None) -> str:
    """Return why a row cannot be ranked, "" if it can."""
    if row.trust == "INVALID":
        return f"invalid: {', '.join(row.trust_failed) or 'a check failed'}"
    if not len(flags):
        return _NOT_RUN
    if index is None:
        return "its models were not evaluated on the same images"
    if reference is None or not np.array_equal(index, reference):
        return f"evaluated on {len(index)} images, the others on {0 if reference is None else len(reference)}"
    return ""
