"""The table in a defense's section of accuracy under common corruptions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.figures.plot_data import numbers
from bench.reports.formatting import Lines, Value


def by_severity(board: Board, table: pd.DataFrame) -> tuple[tuple[str, ...], Lines]:
    """Return accuracy by corruption and severity over all images and seeds, and the mean of each line and column.

    Args:
        board: it says what the columns are.
        table: per-example table of one defense.

    Returns:
        Headings and lines; no line where no corrupted copy was classified.
    """
    found: dict[str, dict[float, float]] = {}
    images = 0
    for name in board.examples_with("corruption", among=table):
        facts, values = board.facts[name], numbers(table, name)
        values = values[~np.isnan(values)]
        if facts.level is not None and len(values):  # the mean over all copies has no severity
            found.setdefault(str(facts.params["corruption"]), {})[facts.level[1]] = float(values.mean())
            images = max(images, len(values))
    levels = sorted({level for line in found.values() for level in line})
    lines = [
        _line(formatting.label(name), [line.get(level) for level in levels], images) for name, line in found.items()
    ]
    if len(found) > 1:
        means = [_mean([line.get(level) for line in found.values()]) for level in levels]
        lines.append(_line("All", means, images))
    return ("Corruption", *(f"Severity {level:g}" for level in levels), "Mean"), tuple(lines)


def _line(name: str, values: list[float | None], images: int) -> tuple[Value, ...]:
    return Value(name), *(Value(v, "percent", images) for v in (*values, _mean(values)))


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None
