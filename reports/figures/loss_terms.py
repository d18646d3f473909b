"""The terms of one defense's objective against the epoch; shown in its section, not among the figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures.figure import Figure, Panel
from bench.reports.figures.labels import spread
from bench.reports.figures.palette import DASHES
from bench.reports.figures.sheet import LETTER, NAME, Sheet, slug, style
from bench.reports.figures.ticks import log_ticks


def loss_terms(board: Board, row: Row) -> Figure | None:
    """Draw the terms of one defense's objective over its training; None where the loss has a single term.

    Args:
        board: it holds the training logs.
        row: the defense.

    Returns:
        The figure, or None.
    """
    logs = {seed: board.logs.get((row.defense, seed), ()) for seed in row.seeds}
    names = list(dict.fromkeys(name for log in logs.values() for record in log for name in record.get("terms") or ()))
    if len(names) < 2 or max(map(len, logs.values())) < 2:
        return None
    with style():
        sheet = Sheet(board, (420, 240), (46, 16 + LETTER * max(map(len, names)), 40, 8))
        ends: list[float] = []
        for name, dash in zip(names, DASHES * len(names), strict=False):
            options: Any = {"dashes": dash} if dash else {}
            for log in logs.values():
                found = [(r["epoch"], float(r["terms"][name])) for r in log if (r.get("terms") or {}).get(name)]
                kept = np.array([pair for pair in found if 0 < pair[1] < np.inf]).reshape(-1, 2)
                sheet.line(row, kept[:, 0], kept[:, 1], marker=False, lw=1.3, **options)
            ends.append(float(kept[-1, 1]) if len(kept) else np.nan)
        sheet.axes.set(yscale="log", xlabel="Epoch")
        sheet.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        log_ticks(sheet.axes, "y", *sheet.axes.get_ylim(), "{:g}")
        _name_ends(sheet, row, names, ends)
        drawing = sheet.finish(f"terms-{slug(row.anchor)}")
    last = ", ".join(f"{name} {formatting.number(end)}" for name, end in zip(names, ends, strict=True))
    return Figure(f"terms-{row.anchor}", "", "", f"Terms of the loss at the last epoch: {last}.", (Panel("", drawing),))


def _name_ends(sheet: Sheet, row: Row, names: list[str], ends: list[float]) -> None:
    """Write each term's name at the right end of its curve, pushed apart on the log axis."""
    low, high = np.log10(sheet.axes.get_ylim())
    order = sorted((i for i in range(len(names)) if ends[i] > 0), key=lambda i: ends[i])
    places = spread([float(np.log10(ends[i])) for i in order], 0.08 * (high - low))
    right = sheet.axes.get_xlim()[1]
    for i, place in zip(order, places, strict=True):
        sheet.axes.annotate(
            names[i],
            (right, 10**place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=NAME,
            color=sheet.looks[row.defense].colour,
            annotation_clip=False,
        )
