"""What the store holds of a plan, run by run: records, logs, per-example tables with what their columns are.

A column name that two evaluations use belongs to the first in the plan; the other's gets its key in front. Columns
of training images begin with train_.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.records import Column
from bench.reports.board.plan import described
from bench.store.links import require_links
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.serialise import column_facts
from bench.store.store import Store

# A numpy array, or a pandas array of texts or of flags that may be missing.
Values: TypeAlias = Any
TRAIN = "train_"  # before the names of columns that are measured on training images
Prefixes: TypeAlias = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Table:
    """One cell's per-example table, ordered by image.

    Attributes:
        index: (n,), of the images.
        label: (n,).
        columns: name to values (n,): a numpy array, or a pandas array of texts or of flags that may be missing.
        facts: name to what the column is, as far as its evaluation declares it.
    """

    index: np.ndarray
    label: np.ndarray
    columns: Mapping[str, Values]
    facts: Mapping[str, Column]

    def renamed(self, prefixes: Mapping[str, str]) -> Table:
        """Return the table with a prefix before every name, before its board column and its companion's.

        Args:
            prefixes: name to prefix.
        """
        facts = {
            prefixes[name] + name: replace(
                column,
                board=column.board and prefixes[name] + column.board,
                companion_of=column.companion_of and prefixes.get(column.companion_of, "") + column.companion_of,
            )
            for name, column in self.facts.items()
        }
        return replace(self, columns={prefixes[k] + k: v for k, v in self.columns.items()}, facts=facts)


@dataclass(frozen=True)
class RunTables:
    """One defense and seed: its plan entry, the records of its cells, its log, its tables by evaluation."""

    entry: RunRecord
    trained: CellRecord | None
    log: Sequence[Mapping[str, Any]]
    records: dict[str, CellRecord | None]
    tables: dict[str, Table]

    @property
    def defense(self) -> str:
        """The spec of the defense."""
        return self.entry.defense

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.entry.seed

    def renamed(self, prefixes: Prefixes) -> RunTables:
        """Return the run with a prefix before every column's name.

        Args:
            prefixes: evaluation to name to prefix.
        """
        return replace(self, tables={key: table.renamed(prefixes[key]) for key, table in self.tables.items()})


class Shared:
    """What many tables have in common, images, their labels and what columns are: the first stands for equal ones.

    A thousand cells of ten thousand images are thus read into half of the memory, whose pages take time to come.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], list[np.ndarray]] = {}
        self._facts: dict[tuple[str, bytes], dict[str, Column]] = {}

    def facts(self, plan: PlanRecord, key: str, arrow: pa.Table) -> dict[str, Column]:
        """Return what the columns of a stored table are, by name, as the plan describes them.

        Args:
            plan: as `Store.plans.latest` returns it.
            key: of the evaluation in the plan.
            arrow: as read from the store.
        """
        place = key, arrow.schema.serialize().to_pybytes()
        if place not in self._facts:
            self._facts[place] = {name: described(plan, key, column) for name, column in column_facts(arrow).items()}
        return self._facts[place]

    def one(self, values: np.ndarray) -> np.ndarray:
        """Return an array that is known already and equal to this one, or this one.

        Args:
            values: whole numbers (n,), not to be written to.
        """
        known = self._known.setdefault((len(values), int(values[-1]) if len(values) else 0), [])
        for array in known:
            if np.array_equal(array, values):
                return array
        known.append(values)
        return values


def load(store: Store, plan: PlanRecord, entry: RunRecord, shared: Shared) -> RunTables:
    """Read everything of one defense and seed.

    Args:
        store: an open store.
        plan: as `Store.plans.latest` returns it.
        entry: the plan's entry of the run.
        shared: arrays that other runs have as well.

    Returns:
        Its records, its log and its tables.

    Raises:
        IntegrityError: a stored chunk does not match its SHA-256, or an evaluation's weights are not the run's.
    """
    cells = {key: entry.evaluations.get(key) for key in plan.evaluations}
    records = {key: store.cell(cell) if cell else None for key, cell in cells.items()}
    tables = {key: store.arrow_table(cell) for key, cell in cells.items() if cell and records[key]}
    trained = entry.train_cell
    training = store.cell(trained) if trained else None
    require_links(entry.label, training, records)
    return RunTables(
        entry=entry,
        trained=training,
        log=store.log(trained) if trained else [],
        records=records,
        tables={key: _table(plan, key, table, shared) for key, table in tables.items() if table is not None},
    )


def _table(plan: PlanRecord, key: str, arrow: pa.Table, shared: Shared) -> Table:
    """Turn a stored table into arrays ordered by image."""
    facts = shared.facts(plan, key, arrow)
    index = shared.one(arrow["index"].to_numpy())
    if (index[1:] < index[:-1]).any():
        arrow = arrow.sort_by("index")
        index = shared.one(arrow["index"].to_numpy())
    columns = {name: _array(arrow[name]) for name in arrow.column_names if name not in ("index", "label")}
    return Table(index, shared.one(arrow["label"].to_numpy()), columns, facts)


def _array(values: pa.ChunkedArray) -> Values:
    """Return a column as a numpy array; texts, and flags of which some are missing, as a pandas array."""
    if pa.types.is_boolean(values.type) and values.null_count:
        return pd.array(values.to_pandas(), dtype="boolean")
    return values.to_pandas().array if pa.types.is_string(values.type) else values.to_numpy()


def distinct_prefixes(plan: PlanRecord, runs: list[RunTables]) -> Prefixes:
    """Return what goes before each column's name so that all are distinct: evaluation to name to prefix.

    Columns of training images get "train_", a name that is taken the key of its evaluation.

    Args:
        plan: as `Store.plans.latest` returns it.
        runs: its runs, as loaded.
    """
    taken: dict[str, str] = {}
    prefixes: Prefixes = {}
    for key, planned in plan.evaluations.items():
        split = TRAIN if planned.split == "train" else ""
        prefixes[key] = {
            name: split if taken.setdefault(split + name, key) == key else f"{split}{key}_"
            for name in columns_of(runs, key)
        }
    return prefixes


def columns_of(runs: list[RunTables], key: str) -> list[str]:
    """Return the columns that an evaluation has in any run's table, in order.

    Args:
        runs: of one plan.
        key: of the evaluation.
    """
    return list(dict.fromkeys(name for run in runs if key in run.tables for name in run.tables[key].columns))


def facts_of(runs: list[RunTables], key: str) -> dict[str, Column]:
    """Return what the columns of an evaluation are, by name, over all runs.

    Args:
        runs: of one plan.
        key: of the evaluation.
    """
    found: dict[str, Column] = {}
    for run in runs:
        if key in run.tables:
            found = {**run.tables[key].facts, **found}
    return {name: found[name] for name in columns_of(runs, key) if name in found}


def numbers(table: Table, column: str) -> np.ndarray:
    """Return a column as float64, shape (n,), not to be written to; flags become 0 and 1, whatever is missing NaN.

    Args:
        table: of one cell.
        column: name of a column that holds flags or numbers.
    """
    values = table.columns[column]
    if isinstance(values, np.ndarray):
        return values.astype("float64", copy=False)
    return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan))
