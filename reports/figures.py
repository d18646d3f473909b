"""The figures of the page, drawn with matplotlib and seaborn as inline SVG: same board, same bytes.

A drawing takes the board and returns a Figure, or None where the columns
that it needs were not measured; what it plots comes from series.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.reports import series, svg, words
from bench.reports.board import Board, BoardColumn, Row
from bench.reports.drawing import Figure, Panel, Sheet, log_ticks, room, slug, spread, style, ticks
from bench.reports.flatness import curvature_against_gradient, flatness_against_robustness, rank_correlation
from bench.reports.palette import DASHES
from bench.reports.plane import decision_boundaries

# How the lines of one quantity beside another are drawn: words, dash, whether in the defense's colour.
KINDS: dict[str, tuple[str, tuple[float, ...], bool]] = {
    "": ("measured, random direction", (), True),
    "worst": ("measured, worst direction", (4, 1.6), True),
    "approximation": ("quadratic approximation", (1.2, 1.6), False),
    "bound": ("bound, estimated from these radii", (5, 1.6, 1.2, 1.6), False),
}
DIRECT = 10  # defenses up to which curves are labelled at their ends
CEILING = 1e2  # of the stability axis: beyond it a bound says nothing


def draw(board: Board, tables: series.Tables) -> list[Figure]:
    """Return every figure that the board's columns allow, in the page's order."""
    drawings: tuple[Callable[[Board, series.Tables], Figure | None], ...] = (
        decision_boundaries, accuracy_against_eps, cost_against_robustness, gradient_stability,
        curvature_against_gradient, flatness_against_robustness, rank_correlation, training,
    )  # fmt: skip
    with style():
        return [figure for drawing in drawings if (figure := drawing(board, tables)) is not None]


def accuracy_against_eps(board: Board, tables: series.Tables) -> Figure | None:
    """Draw robust accuracy against eps with Wilson bands, one panel per attack that ran at several budgets."""
    families = series.families(board, fractions=True)
    rows, panels, table = series.drawn(board), [], []
    single = [c for c in board.columns if c.name == board.ranking and c.number and series.stem(c) not in families]
    budgets = sorted({0.0} | {c.number for columns in families.values() for c in columns if c.number is not None})
    rings = _rings(board) if single else ""
    for family, columns in families.items():
        sheet = Sheet(board, 620, 400, (50, room(rows) if len(rows) <= DIRECT else 14, 44, 8))
        ends, lowest = {}, 100.0
        for row in rows:
            points = [(0.0, row.cells.get("clean_accuracy"))] + [(c.number, row.cells.get(c.name)) for c in columns]
            kept = [(e, c, c.value) for e, c in points if c is not None and c.value is not None and e is not None]
            kept = [(e, c, value) for e, c, value in kept if not words.missing(value)]
            middle = [100 * value for *_, value in kept]
            low = [100 * (value if c.low is None else c.low) for _, c, value in kept]
            high = [100 * (value if c.high is None else c.high) for _, c, value in kept]
            band = sheet.axes.fill_between(
                [e for e, *_ in kept], low, high, color=sheet.looks[row.defense].colour, alpha=0.07, lw=0
            )
            sheet.mark(band, row)
            sheet.line(row, [e for e, *_ in kept], middle)
            if kept:
                ends[row.defense] = middle[-1]
                lowest = min(lowest, *low)
            for other in single:
                if (reached := series.value(row, other.name)) is not None:
                    ring: Any = {"mfc": "none", "mew": 1.4, "ms": 8, "marker": "o", "clip_on": False}
                    colour, budget = sheet.looks[row.defense].colour, other.number or 0.0
                    sheet.mark(sheet.axes.plot([budget], [100 * reached], color=colour, **ring)[0], row)
            told = {e: words.percent(c.value, c.n) for e, c, _ in kept}
            table.append((row.defense, words.label(family), *(told.get(e, words.MISSING) for e in budgets)))
        last, bottom = columns[-1].number or 0.0, max(-2.0, 10 * (lowest // 10) - 2)
        sheet.axes.set(xlabel="Perturbation budget ε (ε = 0: clean images)", ylabel="", ylim=(bottom, 102))
        ticks(sheet.axes, [0.0, *(c.number or 0.0 for c in columns)], "{:g}", "x", least=0.03 * last)
        sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
        sheet.axes.grid(visible=False, axis="x")
        sheet.axes.set_xlim(-0.02 * last, 1.02 * last)
        if len(rows) <= DIRECT:
            sheet.label_ends(rows, ends, last, gap=0.044 * (102 - bottom))
        panels.append(Panel(f"Under {words.label(family)}", sheet.finish(f"accuracy-{slug(family)}")))
    if not panels:
        return None
    return Figure(
        name="accuracy-against-eps",
        title="How robust accuracy falls as the attacker may change more",
        caption="Share of test images still classified right when each may be moved by up to ε. Lines are means over "
        f"seeds; bands are 95 % Wilson intervals over test images.{rings}",
        alt=_eps_alt(board, next(iter(families.values()))),
        panels=tuple(panels),
        legend="narrow" if len(rows) <= DIRECT else "always",
        wide=True,
        header=("Defense", "Attack", *(f"ε = {e:g}, %" for e in budgets)),
        numbers=tuple(table),
    )


def _rings(board: Board) -> str:
    """Say what the rings are, on how many images, and why one may stand above its curve where these are fewer."""
    rows = [r for r in series.drawn(board) if board.ranking in r.cells]
    n = max((r.cells[board.ranking].n for r in rows), default=0)
    columns = [column for family in series.families(board, fractions=True).values() for column in family]
    fewer = any(n < r.cells[column.name].n for r in rows for column in columns if column.name in r.cells)
    above = ", fewer than the curves': a ring may stand above its curve though its attack is stronger"
    return f" Rings: {series.title(board)}, on {words.plural(n, 'image')}{above if fewer else ''}."


def _eps_alt(board: Board, columns: list[BoardColumn]) -> str:
    """Say the curves in words: each defense's value at the smallest and the largest budget."""
    first, last = columns[0], columns[-1]
    parts = [
        f"{row.defense} {words.percent(series.value(row, first.name), row.n)} % to "
        f"{words.percent(series.value(row, last.name), row.n)} %"
        for row in series.drawn(board)
    ]
    return f"Accuracy from ε = {first.number:g} to ε = {last.number:g}: {'; '.join(parts)}."


def cost_against_robustness(board: Board, tables: series.Tables) -> Figure | None:
    """Draw training cost against the ranking column, with intervals and the Pareto front."""
    rows = [
        r for r in series.drawn(board) if r.train_seconds is not None and series.value(r, board.ranking) is not None
    ]
    relative = all(r.train_cost is not None for r in rows)
    if len(rows) < 2:
        return None
    sheet = Sheet(board, 620, 400, (46, 14, 44, 8))
    costs = [float((r.train_cost if relative else r.train_seconds) or 0.0) for r in rows]
    points = [(c, 100 * (series.value(r, board.ranking) or 0.0)) for r, c in zip(rows, costs, strict=True)]
    best = series.front(points)
    sheet.axes.step(
        [points[i][0] for i in best] + [max(costs) * 1.3], [points[i][1] for i in best] + [points[best[-1]][1]],
        where="post", color=svg.STRONG, lw=1.2, zorder=1,
    )  # fmt: skip
    for row, (x, y) in zip(rows, points, strict=True):
        cell, look = row.cells[board.ranking], sheet.looks[row.defense]
        if cell.low is not None and cell.high is not None:
            bar = sheet.axes.plot([x, x], [100 * cell.low, 100 * cell.high], color=look.colour, lw=1.4, alpha=0.5)[0]
            sheet.mark(bar, row)
        sheet.line(row, [x], [y], markersize=8, ls="none")
    sheet.axes.set_xscale("log")
    unit = "Training cost, times that of the standard defense" if relative else "Training time of one model, s"
    sheet.axes.set(xlabel=f"{unit} (log scale)", xlim=(min(costs) / 1.25, max(costs) * 1.6))
    log_ticks(sheet.axes, "x", min(costs) / 1.25, max(costs) * 1.6, "{:g}×" if relative else "{:g}")
    sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
    sheet.label_points([words.short(row.defense) for row in rows], points, rows)
    named = words.listing([rows[i].defense for i in best])
    return Figure(
        name="cost",
        title="What robustness costs in training",
        caption=f"Accuracy under {series.title(board)} against training cost; whiskers are 95 % intervals. The grey "
        "steps are the Pareto front: nothing left of it or level with it is more robust.",
        alt=f"On the front, from cheap to dear: {named}.",
        panels=(Panel("", sheet.finish("cost")),),
        legend="narrow",
        wide=True,
        header=("Defense", "Cost", "Accuracy, %", "On the front"),
        numbers=tuple(
            (r.defense, f"{c:.2f}", words.percent(series.value(r, board.ranking), r.n), "yes" if i in best else "no")
            for i, (r, c) in enumerate(zip(rows, costs, strict=True))
        ),
    )


def gradient_stability(board: Board, tables: series.Tables) -> Figure | None:
    """Draw the relative gradient change over radii beside approximation and bound, one panel per defense (Figure 2)."""
    families = series.families(board, fractions=False)
    if not families:
        return None
    family, columns = next(iter(families.items()))
    rows = series.drawn(board)
    data = {row.defense: series.curves(board, tables[row.defense], family) for row in rows}
    measured = [v for curves in data.values() for c in curves if not c.kind for v in c.low if v > 0]
    radii = [c.number for c in columns if c.number is not None]
    if not measured:
        return None
    highest = max(v for curves in data.values() for c in curves for v in c.middle if np.isfinite(v))
    floor, top = 10 ** np.floor(np.log10(min(measured))), min(CEILING, 10 ** np.ceil(np.log10(highest)))
    panels, table = [], []
    for row in rows:
        sheet = Sheet(board, 280, 230, (46, 12, 24, 8))
        for curve in data[row.defense]:
            text, dash, own = KINDS.get(curve.kind, (words.label(curve.kind), (2, 2), False))
            colour = sheet.looks[row.defense].colour if own else svg.FAINT
            middle = np.clip(curve.middle, floor / 10, top * 10)
            if not curve.kind:
                low, high = (np.clip(v, floor / 10, top * 10) for v in (curve.low, curve.high))
                sheet.axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, lw=0)
            extra = {"dashes": dash} if dash else {}
            sheet.line(row, curve.x, middle, marker=not curve.kind, color=colour, lw=1.8 if own else 1.3, **extra)
            told = dict(zip(curve.x, (words.number(float(v)) for v in curve.middle), strict=True))
            table.append((row.defense, text, *(told.get(radius, words.MISSING) for radius in radii)))
        sheet.axes.set(xscale="log", yscale="log", ylim=(floor, top), xlim=(min(radii) / 1.1, max(radii) * 1.1))
        log_ticks(sheet.axes, "x", min(radii) / 1.1, max(radii) * 1.1, "{:g}")
        log_ticks(sheet.axes, "y", 2 * floor, top, "{:g}")
        panels.append(Panel(row.defense, sheet.finish(f"stability-{slug(row.anchor)}"), row.anchor))
    kinds = series.companions(board, family)
    beyond = f" Curves above {CEILING:g} leave the frame." if highest > CEILING else ""
    return Figure(
        name="stability",
        title="How far the gradient turns when the image moves",
        caption="Relative change of the loss's gradient (vertical) against the radius of the perturbation "
        "(horizontal), both on log scales; medians over images and seeds, the band holds the middle half. Lower is "
        f"more stable; above 1 the old gradient says nothing.{beyond}",
        alt=_stability_alt(rows, columns[-1]),
        panels=tuple(panels),
        legend="never",
        keys=tuple(_key(kind) for kind in kinds),
        header=("Defense", "Curve", *(f"radius {r:g}" for r in radii)),
        numbers=tuple(table),
    )


def _key(kind: str) -> tuple[str, str]:
    text, dash, _ = KINDS.get(kind, (words.label(kind), (2, 2), False))
    return text, " ".join(f"{1.8 * d:g}" for d in dash)


def _stability_alt(rows: list[Row], column: BoardColumn) -> str:
    parts = [f"{r.defense} {words.number(series.value(r, column.name))}" for r in rows]
    return f"Mean relative gradient change at radius {column.number:g}: {'; '.join(parts)}."


def training(board: Board, tables: series.Tables) -> Figure | None:
    """Draw what the training logs hold: loss, accuracy, and the layers' sums where they exist."""
    quantities = (
        ("loss", "Training loss", True), ("train_accuracy", "Training accuracy", False),
        ("holdout_accuracy", "Held-out accuracy", False), ("sum_beta", "Σβ of the activations", True),
        ("sum_abs_log_gamma", "Σ|log γ| of the normalisations", False),
        ("max_sigma_error", "Largest error of a spectral norm", True),
    )  # fmt: skip
    panels, table = [], []
    for quantity, title, log in quantities:
        lines = [(row, *run) for row in series.drawn(board) for run in series.epochs(board, row, quantity)]
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
        table += [(row.defense, title, str(seed), str(x[-1]), words.number(float(y[-1]))) for row, seed, x, y in lines]
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
    last = ", ".join(f"{name} {words.number(end)}" for name, end in zip(names, ends, strict=True))
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
