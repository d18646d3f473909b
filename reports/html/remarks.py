"""Where a column's numbers do not compare: what a reader must know before setting two rows side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.core.records import Role
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.model import Board
from bench.reports.figures.figure import Tables
from bench.reports.figures.plot_data import numbers

SATURATED = 0.1  # a median below this share of the mean: half of the images have next to no gradient
SIGNS = ("†", "‡", "§", "¶")


@dataclass(frozen=True)
class Remark:
    """A reason why some rows' numbers in some columns do not compare with the others'.

    Attributes:
        sign: that marks the numbers, e.g. "†".
        columns: names of the columns.
        defenses: the rows.
        words: the reason.
    """

    sign: str
    columns: tuple[str, ...]
    defenses: tuple[str, ...]
    words: str


def remarks(board: Board, tables: Tables) -> list[Remark]:
    """Return what does not compare on a board.

    Args:
        board: its rows and columns.
        tables: defense to its per-example table.
    """
    found = [*_saturated(board, tables), *_kinked(board, tables)]
    return [Remark(sign, *one) for sign, one in zip(SIGNS, found, strict=False)]


Found = tuple[tuple[str, ...], tuple[str, ...], str]


def _saturated(board: Board, tables: Tables) -> Iterator[Found]:
    """Yield the rows whose loss is saturated on half of the images: their mean gradient is small for that reason."""
    for column in with_role(board.columns, "gradient_norm"):
        low = []
        for row in board.rows:
            table = tables[row.defense]
            values = numbers(table, column.example_column) if column.example_column in table else np.empty(0)
            values = values[~np.isnan(values)]
            if len(values) and np.median(values) < SATURATED * values.mean():
                low.append(row)
        if low:
            names = formatting.listing([row.title for row in low])
            yield (
                (column.name,),
                tuple(row.defense for row in low),
                f"{names}: the loss is saturated. On half of the images the gradient is below a tenth of this mean, "
                "which a few images carry, so a small mean is no sign of robustness.",
            )


def _kinked(board: Board, tables: Tables) -> Iterator[Found]:
    """Yield the rows whose network has kinks, which no Hessian sees."""
    roles: tuple[Role, ...] = ("hessian_norm", "curvature")
    columns: list[BoardColumn] = with_role(board.columns, *roles)
    kinks: dict[str, str] = {}
    bounds = {board.origins[name] for name in board.examples_with("violations")}
    for name in (name for name in board.examples_with("not_applicable") if board.origins[name] in bounds):
        for row in board.rows:
            table = tables[row.defense]
            said = sorted({str(v) for v in table[name].dropna()} - {""}) if name in table else []
            if said:
                kinks.setdefault(row.defense, ", ".join(said))
    if columns and kinks:
        titles = formatting.listing([row.title for row in board.rows if row.defense in kinks])
        layers = ", ".join(dict.fromkeys(kinks.values()))
        yield (
            tuple(c.name for c in columns),
            tuple(kinks),
            f"{titles}: not twice differentiable ({layers}). The Hessian sees the pieces between the kinks, "
            "not the kinks: no bound of the theory applies, and a small curvature says little.",
        )
