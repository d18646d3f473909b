"""The joined per-example table of a board. Images of the test set and of the training set never share a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.core.errors import StoreError
from bench.reports.board.run_tables import RunTables, Values
from bench.store.plan_record import PlanRecord

KEYS = ("defense", "seed", "index", "label")


def joined_examples(plan: PlanRecord, runs: list[RunTables], split: str) -> pd.DataFrame:
    """Return all runs' joined tables of one split below each other: defense, seed, index, label, then the rest.

    Args:
        plan: as `Store.plans.latest` returns it.
        runs: its runs, with distinct names.
        split: "test" or "train".

    Raises:
        StoreError: two tables of a run disagree about the label of an image.
    """
    keys = [key for key, planned in plan.evaluations.items() if planned.split == split]
    runs = [run for run in runs if any(key in run.tables for key in keys)]
    if not runs:
        return pd.DataFrame({k: pd.Series(dtype="str" if k == "defense" else "int64") for k in KEYS})
    joined = [_join(run, [key for key in keys if key in run.tables]) for run in runs]
    sizes = [len(columns["index"]) for columns in joined]
    names = dict.fromkeys(name for columns in joined for name in columns)
    return pd.DataFrame(
        {
            "defense": _repeated([run.defense for run in runs], sizes),
            "seed": np.repeat([run.seed for run in runs], sizes),
            **{name: _concatenated([columns.get(name) for columns in joined], sizes) for name in names},
        },
        copy=False,
    )


def _repeated(texts: list[str], sizes: list[int]) -> pd.Series:
    """Return each text as often as its size says, without an object of Python for each time."""
    places = pa.array(np.repeat(np.arange(len(texts), dtype="int32"), sizes))
    return pd.Series(pa.DictionaryArray.from_arrays(places, pa.array(texts)).cast(pa.large_string()), dtype="str")


def _concatenated(parts: list[Values], sizes: list[int]) -> Values:
    """Return the runs' arrays of one column below each other; a run without the column has missing values."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    known = _nullable(next(part for part in parts if part is not None))
    whole = [
        pd.api.extensions.take(known, np.full(n, -1), allow_fill=True) if part is None else _nullable(part)
        for part, n in zip(parts, sizes, strict=True)
    ]
    return pd.concat([pd.Series(part) for part in whole], ignore_index=True)


def _nullable(values: Values) -> Values:
    """Return an array in a form that can miss values: flags as pandas booleans, numbers and texts as they are."""
    return pd.array(values, dtype="boolean") if pd.api.types.is_bool_dtype(values.dtype) else values


def _join(run: RunTables, keys: list[str]) -> dict[str, Values]:
    """Join one run's tables on the image; return index, label and the columns, one entry per image.

    Returns:
        Index, label and the columns, one entry per image.

    Raises:
        StoreError: two tables disagree about the label of an image.
    """
    index = run.tables[keys[0]].index
    for key in keys[1:]:
        if not np.array_equal(index, run.tables[key].index):
            index = np.union1d(index, run.tables[key].index)
    label = np.full(len(index), -1, dtype="int64")
    columns: dict[str, Values] = {}
    for key in keys:
        table = run.tables[key]
        whole = len(table.index) == len(index)
        at = np.arange(len(index)) if whole else np.searchsorted(index, table.index)
        if ((label[at] >= 0) & (label[at] != table.label)).any():
            raise StoreError(
                f"{run.defense}, seed {run.seed}: expected one label per image, got another one in "
                f"the table of {key!r}. The data changed between evaluations: choose another --out."
            )
        label[at] = table.label
        columns |= table.columns if whole else _spread(table.columns, at, len(index))
    return {"index": index, "label": label, **columns}


def _spread(columns: Mapping[str, Values], at: np.ndarray, n: int) -> dict[str, Values]:
    """Return columns over n images of which they have those at the places `at`; the others are missing."""
    places = np.full(n, -1)
    places[at] = np.arange(len(at))
    return {k: pd.api.extensions.take(_nullable(v), places, allow_fill=True) for k, v in columns.items()}
