"""Tables in a defense's section about bounds: how tight, how often violated, why not applicable, what curves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bench.core.records import NORM_SYMBOLS, Column
from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures.plot_data import numbers
from bench.reports.formatting import Entry, Lines, Value

AT_THE_IMAGE = "at the image"


@dataclass(frozen=True)
class Share:
    """A part of the curvature: where it comes from, its mean share, and the length of its bar (0-100)."""

    name: str
    share: Value
    width: float


def ratios(board: Board, table: pd.DataFrame, role: Literal["tightness", "rate"]) -> tuple[tuple[str, ...], Lines]:
    """Return columns that hold measured over stated: headings, and a line per statement.

    A cell holds median and largest for what must hold, median and share of images above 1 for what may fail; there is
    a column per radius and direction.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
        role: "tightness" of what must hold, or "rate" of what may fail.
    """
    cells: dict[str, dict[str, tuple[Value, ...]]] = {}
    for name in board.examples_with(role, among=table):
        v, facts = numbers(table, name), board.facts[name]
        v = v[~np.isnan(v)]
        if len(v):
            above = Value(100 * float((v > 1).mean()), "integer", unit=" %")
            extreme = above if role == "rate" else Value(float(v.max()), "number")
            line = cells.setdefault(facts.heading or name, {})
            line[_where(facts)] = Value(float(np.median(v)), "number"), extreme
    places = list(dict.fromkeys(where for line in cells.values() for where in line))
    lines = tuple((Value(statement), *(line.get(p) for p in places)) for statement, line in cells.items())
    return ("Statement", *places), lines


def _where(facts: Column) -> str:
    """Return at which radius and in which direction a statement was checked."""
    if facts.level is None:
        return AT_THE_IMAGE
    return ", ".join(filter(None, [f"{facts.level[1]:g}", str(facts.params.get("direction", ""))]))


def against_bounds(board: Board, table: pd.DataFrame) -> Iterator[tuple[Entry, ...]]:
    """Yield measured over bound for columns with a companion bound (the worst direction where measured).

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
    """
    known = {name: board.facts[name] for name in table.columns if name in board.facts}
    worst = {facts.companion_of: name for name, facts in known.items() if facts.companion == "worst"}
    for bound, base in ((name, facts.companion_of) for name, facts in known.items() if facts.companion == "bound"):
        measured = worst.get(base, base)
        if measured not in table:
            continue
        a, b = numbers(table, measured), numbers(table, bound)
        ratio = a[b > 0] / b[b > 0]
        ratio = ratio[~np.isnan(ratio)]
        if len(ratio):
            middle, largest = (Value(float(v), "number") for v in (np.median(ratio), ratio.max()))
            yield Value(measured), middle, largest, Value(len(ratio), "integer")


def shares(board: Board, table: pd.DataFrame) -> Iterator[Share]:
    """Yield the mean share of each activation and of the loss in the curvature along its top direction.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
    """
    for name in board.examples_with("share", among=table):
        v, facts = numbers(table, name), board.facts[name]
        if not np.isnan(v).all():
            share = 100 * float(np.nanmean(v))
            place = " ".join(f"{value:g}" for value in facts.params.values() if isinstance(value, int | float))
            words = " ".join(filter(None, [facts.heading or name, place]))
            yield Share(words, Value(share, "number"), round(min(100.0, max(0.0, share)), 1))


def violations(board: Board, table: pd.DataFrame, most: int = 10) -> Iterator[str]:
    """Yield the stored words of some violated bounds, with image and seed.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
        most: how many, at most.
    """
    for name in board.examples_with("violation", among=table):
        text = table[name].fillna("").astype(str)
        for i in table.index[text != ""][:most]:
            yield f"{text[i]} (image {table.at[i, 'index']}, seed {table.at[i, 'seed']})"


def notes(board: Board, table: pd.DataFrame) -> Iterator[str]:
    """Yield remarks on bounds and certificate.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.
    """
    for name in board.examples_with("not_applicable", among=table):
        what = board.facts[name].heading or name
        for reason in dict.fromkeys(r for r in table[name].dropna().astype(str) if r):
            yield f"{what}: not applicable ({reason}). Nothing is claimed, nothing passed."
    undecided = sum(int(np.nansum(numbers(table, c))) for c in board.examples_with("undecided", among=table))
    if undecided:
        statements = formatting.plural(undecided, "statement")
        yield f"{statements} could not be decided: the grid was still moving at its finest."
    yield from _certificate(board, table)


def _certificate(board: Board, table: pd.DataFrame) -> Iterator[str]:
    """Yield how large the certified radius is, and how loose the Lipschitz constant behind it."""
    values = [name for name in table.columns if name in board.facts and board.facts[name].kind == "value"]
    found = [board.examples_with(role, among=values)[:1] for role in ("certified", "lipschitz", "local_slope")]
    if not all(found):
        return
    radius, constant, slope = (numbers(table, names[0]) for names in found)
    if np.isnan(constant).all():
        return
    norm = str(board.facts[found[0][0]].params.get("norm", ""))
    middle, limit = float(np.nanmedian(radius)), float(np.nanmedian(constant))
    loose = float(np.nanmedian(constant) / np.nanmax(slope))
    yield (
        f"Certified {NORM_SYMBOLS.get(norm, norm)} radius: median {formatting.number(middle)}, from a Lipschitz "
        f"constant of {formatting.number(limit)}, which is {formatting.number(loose)} times the largest slope met."
    )
