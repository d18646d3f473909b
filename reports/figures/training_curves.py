"""Loss and accuracy against the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.figures import plot_data
from bench.reports.figures.figure import Figure, Panel, Tables, figure
from bench.reports.figures.sheet import PANEL, Sheet, slug
from bench.reports.figures.ticks import log_ticks
from bench.reports.formatting import Value


@dataclass(frozen=True)
class Quantity:
    """A number of the training log: its key, its title, and whether its axis is logarithmic or in per cent."""

    key: str
    title: str
    log: bool = False
    percent: bool = False


QUANTITIES = (
    Quantity("loss", "Training loss", log=True),
    Quantity("train_accuracy", "Training accuracy", percent=True),
    Quantity("holdout_accuracy", "Held-out accuracy", percent=True),
    Quantity("sum_beta", "Σβ of the activations", log=True),
    Quantity("sum_abs_log_gamma", "Σ|log γ| of the normalisations"),
    Quantity("max_sigma_error", "Largest error of a spectral norm", log=True),
)


@dataclass(frozen=True)
class Curve:
    """A quantity of one run: epoch (m,) and value (m,)."""

    row: Row
    seed: int
    epoch: np.ndarray
    value: np.ndarray


@figure(order=80)
def training(board: Board, tables: Tables) -> Figure | None:
    """Draw what the training logs hold: loss, accuracy, and the layers' sums where they exist."""
    found = [(quantity, curves(board, quantity.key)) for quantity in QUANTITIES]
    found = [(quantity, lines) for quantity, lines in found if lines]
    if not found:
        return None
    panels = tuple(_panel(board, quantity, lines) for quantity, lines in found)
    return Figure(
        name="training",
        title=finding(found),
        caption="One line per seed, in the defense's colour. The loss holds every term of the objective, so that "
        "losses of different defenses are not comparable; each defense's section shows its terms apart.",
        alt="Training curves: " + ", ".join(panel.title for panel in panels) + ".",
        panels=panels,
        folded=True,
        header=("Defense", "Quantity", "Seed", "Last epoch", "Value there"),
        numbers=tuple(
            (
                Value(c.row.title),
                Value(quantity.title),
                Value(c.seed, "integer"),
                Value(int(c.epoch[-1]), "integer"),
                Value(float(c.value[-1]), "number"),
            )
            for quantity, lines in found
            for c in lines
        ),
    )


def finding(found: list[tuple[Quantity, list[Curve]]]) -> str:
    """Return how well the trainings fitted, by the accuracy on training images, else by the loss.

    Args:
        found: the quantities that were logged, with their curves.
    """
    ends = {q.key: sorted((float(c.value[-1]), c.row.title) for c in lines) for q, lines in found}
    if accuracy := ends.get("train_accuracy"):
        (low, worst), (high, _) = accuracy[0], accuracy[-1]
        if 100 * (high - low) < 0.5:
            return f"Every training ended at {100 * low:.0f}\u00a0% accuracy on its own images"
        return f"Trainings ended at {100 * low:.0f} ({worst}) to {100 * high:.0f}\u00a0% accuracy on their own images"
    quantity, lines = found[0]
    (low, least), (high, most) = ends[quantity.key][0], ends[quantity.key][-1]
    last = f"{quantity.title} ended at {formatting.number(low)} ({least})"
    return last if len(lines) == 1 else f"{last} to {formatting.number(high)} ({most})"


def curves(board: Board, key: str) -> list[Curve]:
    """Return a quantity of the training logs, run by run, where it was logged at least twice.

    Args:
        board: it holds the logs.
        key: of the quantity in a record of the log.
    """
    found = []
    for row in plot_data.drawn(board):
        for seed in row.seeds:
            log = [r for r in board.logs.get((row.defense, seed), ()) if r.get(key) is not None]
            log = [r for r in log if math.isfinite(r[key])]
            if len(log) > 1:
                epoch = np.array([r["epoch"] for r in log])
                found.append(Curve(row, seed, epoch, np.array([float(r[key]) for r in log])))
    return found


def _panel(board: Board, quantity: Quantity, lines: list[Curve]) -> Panel:
    """Draw a quantity, one line per run."""
    sheet = Sheet(board, PANEL, (42, 12, 42, 8))
    for curve in lines:
        sheet.line(curve.row, curve.epoch, curve.value, marker=False, lw=1.3)
    heights = np.concatenate([curve.value for curve in lines])
    if quantity.log and (heights > 0).all() and heights.max() > 4 * heights.min():
        sheet.axes.set_yscale("log")
        log_ticks(sheet.axes, "y", *sheet.axes.get_ylim(), "{:g}")
    elif quantity.percent:
        sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.3g} %"))
    sheet.axes.set(xlabel="Epoch")
    sheet.axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return Panel(quantity.title, sheet.finish(f"training-{slug(quantity.key)}"))
