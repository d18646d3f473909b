"""One row of the board: the numbers of one defense over its runs, not yet ranked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from bench.core.files import safe_name
from bench.core.handed_over import PROVENANCE
from bench.core.records import ThreatModel
from bench.core.stats.intervals import fraction_interval, nearest
from bench.core.stats.means import mean_interval
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.model import Row
from bench.reports.board.parts import Cell, RunFacts
from bench.reports.board.repeats import repeats
from bench.reports.board.row_trust import row_trust
from bench.reports.board.run_tables import RunTables, numbers
from bench.reports.board.training_cost import RelativeTime, operations, relative_time, seconds
from bench.trust.records import TrustReport

_SPARSE = 10  # places in a data set per value, up to which an array over all places is cheaper than sorting
BASELINE = "standard"  # the defense whose training time is the unit of cost


def board_row(
    name: str,
    runs: list[RunTables],
    columns: list[BoardColumn],
    ranking: BoardColumn | None,
    threat: ThreatModel | None,
    reports: Mapping[tuple[str, int], TrustReport],
) -> Row:
    """Return the row of one defense, not yet ranked.

    Args:
        name: the defense's spec.
        runs: its runs, one per seed.
        columns: the measured columns.
        ranking: the one that ranks; None: nothing does.
        threat: the suite's; None: it has none.
        reports: (defense, seed) to what the checks of trust say of that model, where it was assessed.
    """
    cells = {column.name: cell for column in columns if (cell := board_cell(runs, column)) is not None}
    counted = (cells[c.name].value for c in with_role(columns, "violations") if c.name in cells)
    violations = next(counted, None)
    mine = {run.seed: found for run in runs if (found := reports.get((run.defense, run.seed))) is not None}
    seeds = tuple(run.seed for run in runs if run.tables)
    done = [[r.info for r in run.records.values() if r and r.status == "done"] for run in runs]
    return Row(
        rank=None,
        rank_low=None,
        rank_high=None,
        defense=name,
        anchor=safe_name(name),
        seeds=seeds,
        n=_images(cells, ranking),
        cells=cells,
        planned_seeds=len(runs),
        assessment=row_trust(mine, seeds, int(violations or 0)),
        repeats=repeats(runs, threat, mine),
        bound_violations=None if violations is None else int(violations),
        eval_seconds=_mean(_total(map(seconds, infos)) for infos in done if infos),
        eval_forwards=_count(sum(i.get("forwards", 0) for i in infos) for infos in done if infos),
        eval_backwards=_count(sum(i.get("backwards", 0) for i in infos) for infos in done if infos),
        runs={run.seed: _facts(run) for run in runs},
        failures=tuple(line for run in runs for line in _failures(run)),
        missing=tuple(line for run in runs for line in _missing(run)),
    )


def board_cell(runs: list[RunTables], column: BoardColumn) -> Cell | None:
    """Return the number of one column for one defense, None if none of its runs has the column.

    Args:
        runs: of the defense, one per seed.
        column: a measured column.
    """
    by_image: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # seed to images and their values
    nulls, measured = 0, 0
    for run in runs:
        table = run.tables.get(column.evaluation)
        if table is None or column.example_column not in table.columns:
            continue
        values = numbers(table, column.example_column)
        valid = ~np.isnan(values)
        nulls, measured = nulls + int((~valid).sum()), measured + 1
        if valid.any():
            by_image[run.seed] = table.index[valid], values[valid]
    if not measured:
        return None
    if not by_image:
        return Cell(None, nulls=nulls)
    n = _distinct([index for index, _ in by_image.values()])
    # Events (violations) add up over runs; everything else is the mean over them.
    total = column.facts.aggregate == "sum"
    by_seed = {seed: float(values.sum() if total else values.mean()) for seed, (_, values) in by_image.items()}
    value = float(np.sum(list(by_seed.values())) if total else np.mean(list(by_seed.values())))
    low, high = _interval(column, value, n, list(by_image.values()))
    return Cell(value, low, high, by_seed, n, nulls)


def _distinct(indices: list[np.ndarray]) -> int:
    """Return how many images several runs have between them."""
    if all(np.array_equal(index, indices[0]) for index in indices[1:]):
        return len(indices[0])
    return int(np.count_nonzero(np.bincount(_close_together(np.concatenate(indices)))))


def _over_seeds(by_image: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return each image's mean over the seeds that have a value of it, in the order of the images."""
    places = _close_together(np.concatenate([index for index, _ in by_image]))
    counts, sums = np.bincount(places), np.bincount(places, np.concatenate([values for _, values in by_image]))
    there = counts > 0
    return sums[there] / counts[there]


def _close_together(places: np.ndarray) -> np.ndarray:
    """Return places in a data set as they are, or numbered anew in their order where they are far apart."""
    if places.min() >= 0 and places.max() <= _SPARSE * len(places):
        return places
    return np.unique(places, return_inverse=True)[1]


def _interval(
    column: BoardColumn, value: float, n: int, by_image: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of a fraction or of a mean over images; a sum of events has none."""
    if column.facts.interval == "wilson":
        return fraction_interval(value, n)
    if column.facts.aggregate == "mean":
        return mean_interval(_over_seeds(by_image))
    return None, None


def _images(cells: dict[str, Cell], ranking: BoardColumn | None) -> int:
    """Return the distinct images of the ranking column; where nothing ranks, of the column that has most."""
    if ranking is None:
        return max((cell.n for cell in cells.values()), default=0)
    return cells[ranking.name].n if ranking.name in cells else 0


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _total(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None


def _count(values: Iterable[float]) -> int | None:
    mean = _mean(values)
    return None if mean is None else nearest(mean)


def _facts(run: RunTables) -> RunFacts:
    """Return the plan's entry of a run with what the store knows of its cells."""
    records = {key: r for key, r in run.records.items() if r}
    return RunFacts(
        entry=run.entry,
        training=run.trained.info if run.trained else {},
        status={key: r.status for key, r in records.items()},
        info={key: r.info for key, r in records.items()},
    )


def _failures(run: RunTables) -> list[str]:
    first = "weights" if run.entry.provenance == PROVENANCE else "training"
    cells = [(first, run.trained), *run.records.items()]
    return [
        f"{what}, seed {run.seed}: {r.error or 'no cause stored'}" for what, r in cells if r and r.status == "failed"
    ]


def _missing(run: RunTables) -> list[str]:
    lines = []
    if run.entry.train_cell and (run.trained is None or run.trained.status in ("pending", "running")):
        lines.append(f"training, seed {run.seed}: {len(run.log)} epochs so far")
    for key, record in run.records.items():
        if record is None or record.status in ("pending", "running"):
            images = len(run.tables[key].index) if key in run.tables else 0
            lines.append(f"{key}, seed {run.seed}: {images} images so far")
    return lines


def with_cost(rows: list[Row]) -> list[Row]:
    """Return the rows with the cost of training relative to the baseline's in the same run, measured and counted.

    Args:
        rows: all rows of the board.
    """
    bases = [row for row in rows if row.entry.base == BASELINE]
    baseline = next((r for r in bases if r.defense == BASELINE), bases[0] if bases else None)
    return [_with_cost(row, baseline) for row in rows]


def _with_cost(row: Row, baseline: Row | None) -> Row:
    """Return a row with its cost; the baseline's is 1 by definition."""
    own = row.trainings.values()
    row = replace(row, train_operations=_mean(map(operations, own)), train_seconds=_mean(map(seconds, own)))
    if baseline is None or row.handed_over:  # whoever trained it elsewhere paid for it
        return row
    time = relative_time(row.trainings, baseline.trainings, baseline.defense)
    if row.defense == baseline.defense and time.by_seed:
        time = RelativeTime(time.by_seed)
    counted = _mean(map(operations, baseline.trainings.values()))
    flops = row.train_operations / counted if row.train_operations and counted else None
    return replace(row, train_time=time, train_cost=time.value, train_flops=flops)
