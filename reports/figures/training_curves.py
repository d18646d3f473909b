"""Loss, its terms and accuracy against the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.figures.palette import DASHES
from bench.reports.figures.sheet import Figure, Panel, Sheet, log_ticks, slug, spread, style


def training(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw what the training logs hold: loss, accuracy, and the layers' sums where they exist."""
    quantities = (
        ("loss", "Training loss", True), ("train_accuracy", "Training accuracy", False),
        ("holdout_accuracy", "Held-out accuracy", False), ("sum_beta", "Σβ of the activations", True),
        ("sum_abs_log_gamma", "Σ|log γ| of the normalisations", False),
        ("max_sigma_error", "Largest error of a spectral norm", True),
    )  # fmt: skip
    panels, table = [], []
    for quantity, title, log in quantities:
        lines = [(row, *run) for row in plot_data.drawn(board) for run in plot_data.epochs(board, row, quantity)]
        if not lines:
            continue
        sheet = Sheet(board, 280, 220, (42, 12, 40, 8))
        for row, _, x, y in lines:
            sheet.line(row, x, y, marker=False, lw=1.3)
        heights = np.concatenate([y for *_, y in lines])
        if log and (heights > 0).all() and heights.max() > 4 * heights.min():
            sheet.axes.set_yscale("log")
            log_ticks(sheet.axes, "y", *sheet.axes.get_ylim(), "{:g}")
        elif quantity.endswith("accuracy"):
            sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
        sheet.axes.set(xlabel="Epoch")
        sheet.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panels.append(Panel(title, sheet.finish(f"training-{slug(quantity)}")))
        table += [
            (row.defense, title, str(seed), str(x[-1]), formatting.number(float(y[-1]))) for row, seed, x, y in lines
        ]
    if not panels:
        return None
    return Figure(
        name="training",
        title="How the trainings went",
        caption="One line per seed, in the defense's colour. The loss holds every term of the objective, so that "
        "losses of different defenses are not comparable; each defense's section shows its terms apart.",
        alt="Training curves: " + ", ".join(panel.title for panel in panels) + ".",
        panels=tuple(panels),
        header=("Defense", "Quantity", "Seed", "Last epoch", "Value there"),
        numbers=tuple(table),
    )


def loss_terms(board: Board, row: Row) -> Figure | None:
    """Draw the terms of one defense's objective over its training; None where the loss has a single term."""
    logs = {seed: board.logs.get((row.defense, seed), []) for seed in row.seeds}
    names = list(dict.fromkeys(name for log in logs.values() for record in log for name in record.get("terms") or ()))
    if len(names) < 2 or max(map(len, logs.values())) < 2:
        return None
    with style():
        sheet = Sheet(board, 420, 240, (46, 16 + 6.3 * max(map(len, names)), 40, 8))
        ends: list[float] = []
        for name, dash in zip(names, DASHES * len(names), strict=False):
            for log in logs.values():
                found = [(r["epoch"], float(r["terms"][name])) for r in log if (r.get("terms") or {}).get(name)]
                kept = np.array([pair for pair in found if 0 < pair[1] < np.inf]).reshape(-1, 2)
                options: Any = {"dashes": dash} if dash else {}
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
            names[i], (right, 10**place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=10.5,
            color=sheet.looks[row.defense].colour, annotation_clip=False,
        )  # fmt: skip
