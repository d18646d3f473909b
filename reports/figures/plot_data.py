"""What all figures share: whom they draw, per-example tables, and the ranking column in words."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Row
from bench.reports.figures.figure import Tables

MOST: Final = 30  # rows that a figure shows by curves, clouds or panels: ten colours, three dashes


def names(board: Board) -> list[str]:
    """Return the defenses in the plan's order, which does not change with the results."""
    planned = [run.defense for run in board.plan.rows]
    return list(dict.fromkeys([*planned, *(r.defense for r in board.rows)]))


def drawn(board: Board) -> list[Row]:
    """Return the rows that curves, clouds and panels show: the first `MOST` of `told`, more cannot be told apart."""
    return told(board)[:MOST]


def told(board: Board) -> list[Row]:
    """Return the rows that figures speak of: the ranked ones; the complete ones, else all, where nothing is ranked."""
    measured = [r for r in board.rows if r.cells]
    ranked = [r for r in board.rows if r.rank is not None]
    return ranked or [r for r in measured if not r.incomplete] or measured


def tables(board: Board) -> Tables:
    """Return the per-example table of each defense: the split is made once, the whole may have millions of rows."""
    codes, defenses = pd.factorize(board.examples["defense"])
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    found: dict[str, list[slice]] = {}
    for start, end in pairwise([*starts.tolist(), len(codes)]):
        found.setdefault(str(defenses[codes[start]]), []).append(slice(start, end))
    return {row.defense: _rows(board.examples, found.get(row.defense, [])) for row in board.rows}


def _rows(table: pd.DataFrame, parts: list[slice]) -> pd.DataFrame:
    """Return some stretches of a table below each other; a single one shares the table's memory."""
    pieces = [table.iloc[part] for part in parts] or [table.iloc[:0]]
    return pieces[0] if len(pieces) == 1 else pd.concat(pieces)


def numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64, shape (n,), not to be written to: flags as 0 and 1, whatever is no number as NaN.

    Args:
        table: per-example table.
        column: its name.
    """
    values = table[column]
    if values.dtype == np.float64:
        return (
            values.to_numpy()
        )  # the table's own: copies of millions of numbers are what a large report would wait for
    if values.dtype == object or pd.api.types.is_string_dtype(values.dtype):
        values = pd.to_numeric(values, errors="coerce")
    return values.to_numpy(dtype="float64", na_value=np.nan)


def right(board: Board, table: pd.DataFrame) -> np.ndarray:
    """Return which images are classified right without an attack, bool (n,); all where that was not measured."""
    clean = board.first("clean")
    if clean is None or clean.example_column not in table:
        return np.ones(len(table), dtype=bool)
    return numbers(table, clean.example_column) == 1


def title(board: Board) -> str:
    """Return the ranking column in words: "AutoAttack ℓ₂ at ε = 0.5"."""
    column = board.ranking_column
    return "" if column is None else named(column)


def named(column: BoardColumn) -> str:
    """Return a column in words, with its level: "AutoAttack ℓ₂ at ε = 0.5"."""
    if column.level is None:
        return column.heading
    return f"{column.heading} at {formatting.level_name(column.level_name)}\u00a0=\u00a0{column.level:g}"
