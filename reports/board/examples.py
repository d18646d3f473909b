"""What the store holds of a plan, model by model: records, logs, per-example tables, and their join.

Images of the test set and of the training set never share a table. A column name that two evaluations use belongs
to the first in the plan; the other's gets its key in front.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.errors import StoreError
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import IMAGES_SHOWN, CellRecord
from bench.store.store import Store

KEYS = ("defense", "seed", "index", "label")


@dataclass(frozen=True)
class Table:
    """One cell's per-example table, ordered by image: index (n,), label (n,), and the columns by name, each (n,)."""

    index: np.ndarray
    label: np.ndarray
    columns: dict[str, Any]


@dataclass(frozen=True)
class RunTables:
    """One defense and seed: its plan entry, the records of its cells, its log, its tables by evaluation."""

    entry: RunRecord
    trained: CellRecord | None
    log: list[dict[str, Any]]
    records: dict[str, CellRecord | None]
    tables: dict[str, Table]


def load(store: Store, plan: PlanRecord, entry: RunRecord) -> RunTables:
    """Read everything of one defense and seed."""
    cells = {key: entry.evaluations.get(key) for key in plan.evaluations}
    records = {key: store.cell(cell) if cell else None for key, cell in cells.items()}
    tables = {key: store.arrow_table(cell) for key, cell in cells.items() if cell and records[key]}
    trained = entry.train_cell
    return RunTables(
        entry=entry,
        trained=store.cell(trained) if trained else None,
        log=store.log(trained) if trained else [],
        records=records,
        tables={key: _table(table) for key, table in tables.items() if table is not None},
    )


def _table(arrow: pa.Table) -> Table:
    """Turn a stored table into arrays ordered by image."""
    arrow = arrow.combine_chunks()
    if (np.diff(arrow["index"].to_numpy()) < 0).any():
        arrow = arrow.sort_by("index")
    columns = {name: _array(arrow[name]) for name in arrow.column_names if name not in ("index", "label")}
    return Table(arrow["index"].to_numpy(), arrow["label"].to_numpy(), columns)


def _array(values: pa.ChunkedArray) -> Any:
    """Return a column as a numpy array; texts, and flags of which some are missing, as a pandas array."""
    if pa.types.is_boolean(values.type) and values.null_count:
        return pd.array(values.to_pandas(), dtype="boolean")
    return values.to_pandas().array if pa.types.is_string(values.type) else values.to_numpy()


def renamed(plan: PlanRecord, runs: list[RunTables]) -> list[RunTables]:
    """Give columns of training images the prefix train_, and a name that is taken its evaluation's key."""
    taken: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {}
    for key, facts in plan.evaluations.items():
        prefix = "train_" if facts.split == "train" else ""
        names[key] = {
            name: prefix + name if taken.setdefault(prefix + name, key) == key else f"{prefix}{key}_{name}"
            for name in columns_of(runs, key)
        }
    return [
        replace(
            run,
            tables={
                k: replace(t, columns={names[k][c]: v for c, v in t.columns.items()}) for k, t in run.tables.items()
            },
        )
        for run in runs
    ]


def columns_of(runs: list[RunTables], key: str) -> list[str]:
    """Return the columns that an evaluation has in any model's table, in order."""
    return list(dict.fromkeys(name for run in runs if key in run.tables for name in run.tables[key].columns))


def numbers(table: Table, column: str) -> np.ndarray:
    """Return a column as float64, shape (n,); flags become 0 and 1, whatever is missing NaN."""
    values = table.columns[column]
    if isinstance(values, np.ndarray):
        return values.astype("float64")
    return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan))


def stack(plan: PlanRecord, runs: list[RunTables], split: str) -> pd.DataFrame:
    """Return all models' joined tables of one split below each other: defense, seed, index, label, then the rest."""
    keys = [key for key, facts in plan.evaluations.items() if facts.split == split]
    runs = [run for run in runs if any(key in run.tables for key in keys)]
    if not runs:
        return pd.DataFrame({k: pd.Series(dtype="str" if k == "defense" else "int64") for k in KEYS})
    joined = [_join(run, [key for key in keys if key in run.tables]) for run in runs]
    sizes = [len(columns["index"]) for columns in joined]
    names = dict.fromkeys(name for columns in joined for name in columns)
    return pd.DataFrame(
        {
            "defense": pd.Series(np.repeat([run.entry.defense for run in runs], sizes), dtype="str"),
            "seed": np.repeat([run.entry.seed for run in runs], sizes),
            **{name: _concatenated([columns.get(name) for columns in joined], sizes) for name in names},
        },
        copy=False,
    )


def _concatenated(parts: list[Any], sizes: list[int]) -> Any:
    """Return the models' arrays of one column below each other; a model without the column has missing values."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    known = _nullable(next(part for part in parts if part is not None))
    whole = [
        pd.api.extensions.take(known, np.full(n, -1), allow_fill=True) if part is None else _nullable(part)
        for part, n in zip(parts, sizes, strict=True)
    ]
    return pd.concat([pd.Series(part) for part in whole], ignore_index=True)


def _nullable(values: Any) -> Any:
    """Return an array in a form that can miss values: flags as pandas booleans, numbers and texts as they are."""
    return pd.array(values, dtype="boolean") if pd.api.types.is_bool_dtype(values.dtype) else values


def _join(run: RunTables, keys: list[str]) -> dict[str, Any]:
    """Join one model's tables on the image; return index, label and the columns, one entry per image.

    Raises:
        StoreError: two tables disagree about the label of an image.
    """
    index = run.tables[keys[0]].index
    for key in keys[1:]:
        if not np.array_equal(index, run.tables[key].index):
            index = np.union1d(index, run.tables[key].index)
    label = np.full(len(index), -1, dtype="int64")
    columns: dict[str, Any] = {}
    for key in keys:
        table = run.tables[key]
        whole = len(table.index) == len(index)
        at = np.arange(len(index)) if whole else np.searchsorted(index, table.index)
        if ((label[at] >= 0) & (label[at] != table.label)).any():
            raise StoreError(
                f"{run.entry.defense}, seed {run.entry.seed}: expected one label per image, got another one in "
                f"the table of {key!r}. The data changed between evaluations: choose another --out."
            )
        label[at] = table.label
        columns |= table.columns if whole else _spread(table.columns, at, len(index))
    return {"index": index, "label": label, **columns}


def _spread(columns: dict[str, Any], at: np.ndarray, n: int) -> dict[str, Any]:
    """Return columns over n images of which they have those at the places `at`; the others are missing."""
    places = np.full(n, -1)
    places[at] = np.arange(len(at))
    return {k: pd.api.extensions.take(_nullable(v), places, allow_fill=True) for k, v in columns.items()}


def pictures(
    store: Store, groups: dict[str, list[RunTables]], evaluation: str
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the nearest and the farthest broken images of each defense's first model that has stored ones.

    Args:
        store: an open store.
        groups: defense to its models.
        evaluation: key of the evaluation whose images are wanted; "" for none.
    """
    chosen: dict[tuple[str, int], dict[str, Any]] = {}
    for name, runs in groups.items() if evaluation else ():
        for run in runs:
            record = run.records[evaluation]
            images = store.images(record.id) if record else {}
            if len(images.get("index", ())):
                chosen[name, run.entry.seed] = _nearest_and_farthest(images)
                break
    return chosen


def _nearest_and_farthest(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    delta = (images["adversarial"] - images["clean"]).reshape(len(images["index"]), -1)
    distance = np.linalg.norm(delta.astype("float64"), axis=1)
    order = np.argsort(distance, kind="stable")
    keep = order if len(order) <= 2 * IMAGES_SHOWN else np.concatenate([order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]])
    return {key: values[keep] for key, values in images.items()} | {"distance": distance[keep]}
