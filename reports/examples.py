"""What the store holds of a plan, model by model: records, logs, per-example tables, and their join.

Images of the test set and of the training set never share a table. A column name that two evaluations use belongs
to the first in the plan; the other's gets its key in front.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import StoreError
from bench.store import CellRecord, Store

KEYS = ("defense", "seed", "index", "label")
PICTURES = 6  # of the nearest and of the farthest broken images, per defense


@dataclass(frozen=True)
class Run:
    """One defense and seed: its plan entry, the records of its cells, its tables by evaluation (index = image)."""

    entry: dict[str, Any]
    trained: CellRecord | None
    log: list[dict[str, Any]]
    records: dict[str, CellRecord | None]
    tables: dict[str, pd.DataFrame]


def load(store: Store, plan: dict[str, Any], entry: dict[str, Any]) -> Run:
    """Read everything of one defense and seed."""
    cells = {key: entry["evaluations"].get(key) for key in plan["evaluations"]}
    records = {key: store.cell(cell) if cell else None for key, cell in cells.items()}
    tables = {key: store.table(cells[key]) for key, record in records.items() if record}
    trained = entry.get("train_cell")
    return Run(
        entry=entry,
        trained=store.cell(trained) if trained else None,
        log=store.log(trained) if trained else [],
        records=records,
        tables={key: table.set_index("index").sort_index() for key, table in tables.items() if len(table)},
    )


def renamed(plan: dict[str, Any], runs: list[Run]) -> list[Run]:
    """Give columns of training images the prefix train_, and a name that is taken its evaluation's key."""
    taken: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {}
    for key, facts in plan["evaluations"].items():
        prefix = "train_" if facts["split"] == "train" else ""
        seen = dict.fromkeys(c for run in runs if key in run.tables for c in run.tables[key].columns if c != "label")
        names[key] = {c: prefix + c if taken.setdefault(prefix + c, key) == key else f"{prefix}{key}_{c}" for c in seen}
    return [replace(run, tables={k: t.rename(columns=names[k]) for k, t in run.tables.items()}) for run in runs]


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64, shape (n,); flags become 0 and 1, whatever is missing NaN."""
    values = table[column]
    if values.dtype == object:
        values = pd.to_numeric(values.map(lambda v: v, na_action="ignore"), errors="coerce")
    return values.to_numpy(dtype="float64", na_value=np.nan)


def stack(plan: dict[str, Any], runs: list[Run], split: str) -> pd.DataFrame:
    """Return all models' joined tables of one split below each other: defense, seed, index, label, then the rest."""
    keys = [key for key, facts in plan["evaluations"].items() if facts["split"] == split]
    joined = [join(run, [k for k in keys if k in run.tables]) for run in runs]
    joined = [table for table in joined if len(table)]
    if not joined:
        return pd.DataFrame({k: pd.Series(dtype="str" if k == "defense" else "int64") for k in KEYS})
    whole = pd.concat(joined, ignore_index=True)
    for name in whole.columns:
        if whole[name].dtype == object and pd.api.types.infer_dtype(whole[name], skipna=True) == "boolean":
            whole[name] = whole[name].astype("boolean")
    return whole[[*KEYS, *(c for c in whole.columns if c not in KEYS)]]


def join(run: Run, keys: list[str]) -> pd.DataFrame:
    """Join one model's tables on the image.

    Raises:
        StoreError: two tables disagree about the label of an image.
    """
    if not keys:
        return pd.DataFrame()
    index = run.tables[keys[0]].index
    for key in keys[1:]:
        if not index.equals(run.tables[key].index):
            index = index.union(run.tables[key].index)
    label = np.full(len(index), -1, dtype="int64")
    columns: dict[str, Any] = {}
    for key in keys:
        table = run.tables[key]
        at = index.get_indexer(table.index)
        if ((label[at] >= 0) & (label[at] != table["label"].to_numpy())).any():
            raise StoreError(
                f"{run.entry['defense']}, seed {run.entry['seed']}: expected one label per image, got another one in "
                f"the table of {key!r}. The data changed between evaluations: choose another --out."
            )
        label[at] = table["label"].to_numpy()
        whole = table if len(at) == len(index) else table.reindex(index)
        columns.update({name: whole[name].array for name in table.columns.drop("label")})
    facts = {"defense": run.entry["defense"], "seed": run.entry["seed"], "index": index.to_numpy(), "label": label}
    return pd.DataFrame({**facts, **columns})


def pictures(store: Store, groups: dict[str, list[Run]], evaluation: str) -> dict[tuple[str, int], dict[str, Any]]:
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
                chosen[name, run.entry["seed"]] = _nearest_and_farthest(images)
                break
    return chosen


def _nearest_and_farthest(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    delta = (images["adversarial"] - images["clean"]).reshape(len(images["index"]), -1)
    distance = np.linalg.norm(delta.astype("float64"), axis=1)
    order = np.argsort(distance, kind="stable")
    keep = order if len(order) <= 2 * PICTURES else np.concatenate([order[:PICTURES], order[-PICTURES:]])
    return {key: values[keep] for key, values in images.items()} | {"distance": distance[keep]}
