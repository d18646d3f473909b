"""Tables in a defense's section: stages of the attack, per-example columns, trust checks, cost, cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.reports.board.join import KEYS
from bench.reports.board.model import Board, Row
from bench.reports.board.training_cost import seconds
from bench.reports.figures.plot_data import numbers
from bench.reports.formatting import MISSING, Entry, Value

UNBROKEN = {"": "not broken", "clean": "wrong without an attack"}  # stages that are none


def stages(board: Board, table: pd.DataFrame) -> Iterator[tuple[Entry, ...]]:
    """Yield how many images each stage of the ranking attack broke, over all seeds.

    Args:
        board: it says which column holds the stages.
        table: per-example table of one defense.
    """
    column = board.beside(board.ranking_column, "broken_by")
    if column is None or column not in table:
        return
    found = table[column].dropna().astype(str)
    for stage, k in found.value_counts(sort=True).items():
        name = UNBROKEN.get(str(stage), str(stage))
        yield Value(name), Value(int(k), "integer"), Value(100 * int(k) / len(found), "share")


def example_columns(table: pd.DataFrame) -> Iterator[tuple[Entry, ...]]:
    """Yield mean, median, 5 %, 95 % and the missing of every per-example number; of a flag the share of true.

    Args:
        table: per-example table of one defense.
    """
    for name in table.columns.drop(list(KEYS), errors="ignore"):
        if pd.api.types.is_string_dtype(table[name].dtype):
            continue
        v = numbers(table, name)
        missing, v = Value(int(np.isnan(v).sum()), "integer"), v[~np.isnan(v)]
        if not len(v):
            continue
        mean = Value(float(v.mean()), "number")
        if pd.api.types.is_bool_dtype(table[name].dtype):
            yield Value(name), mean, None, None, None, missing
        else:
            points = np.quantile(v, (0.5, 0.05, 0.95), method="nearest")
            yield Value(name), mean, *(Value(float(p), "number") for p in points), missing


def checks(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield the checks behind the trust grade of each seed, failed ones first.

    Args:
        row: the defense.
    """
    found = [
        (check["verdict"] != "fail", name, seed, check)
        for seed, run in row.runs.items()
        for info in run.info.values()
        for name, check in info.get("trust", {}).get("checks", {}).items()
    ]
    for _, name, seed, check in sorted(found, key=lambda f: f[:3]):
        value = check.get("value")
        words = f"{name}: {check['description']}" if check.get("description") else name
        known = isinstance(value, int | float)
        measured = Value(float(value), "number") if known else Value(MISSING, "number")
        yield Value(words), Value(seed, "integer"), Value(str(check["verdict"])), measured


def cost(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield time and passes of each evaluation, sums over seeds.

    Args:
        row: the defense.
    """
    infos: dict[str, list[Mapping[str, Any]]] = {}
    for run in row.runs.values():
        for key, info in run.info.items():
            infos.setdefault(key, []).append(info)
    for key, parts in infos.items():
        spent = sum(seconds(p) or 0.0 for p in parts)
        forwards, backwards, images = (
            sum(float(p.get(k) or 0.0) for p in parts) for k in ("forwards", "backwards", "images")
        )
        yield (
            Value(key),
            Value(spent, "seconds"),
            Value(forwards, "count"),
            Value(backwards, "count"),
            Value(images, "integer"),
        )


def cells(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield the keys of weights and cells, by which the store finds them.

    Args:
        row: the defense.
    """
    for seed, run in row.runs.items():
        keys = {
            "weights (SHA-256)": run.training.get("weights"),
            "training": run.entry.train_cell,
            **run.entry.evaluations,
        }
        for what, key in keys.items():
            if key:
                yield Value(what), Value(seed, "integer"), Value(key)
