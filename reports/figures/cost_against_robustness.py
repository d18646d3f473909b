"""Training cost against robust accuracy, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.board.training_cost import operations, seconds
from bench.reports.figures import plot_data, svg
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.figure import Figure, Key, Panel, Tables, figure
from bench.reports.figures.labels import Box
from bench.reports.figures.sheet import NARROW, WIDE, Sheet
from bench.reports.figures.ticks import log_ticks, percent_ticks
from bench.reports.formatting import Kind, Value

MARK: Final = 8.0  # size of a mark, in pixels
STROKE: Final = 2.0  # half the room of a line, in pixels


@dataclass(frozen=True)
class _Measure:
    """A measure of training cost: how it is read off a row and its seeds, its axis, its ticks, the form of its numbers.

    Attributes:
        of: a row's number.
        label: of the axis.
        tick: format string of a tick.
        form: of its numbers.
        seeds: the same of every seed, in a unit of its own: their spread around their mean is the row's.
    """

    of: Callable[[Row], float | None]
    label: str
    tick: str
    form: Kind
    seeds: Callable[[Row], list[float]]


def _operations(row: Row) -> list[float]:
    return [v for info in row.trainings.values() if (v := operations(info))]


def _seconds(row: Row) -> list[float]:
    return [v for info in row.trainings.values() if (v := seconds(info))]


def _ratios(row: Row) -> list[float]:
    return list(row.train_time.by_seed.values()) if row.train_time else []


# The first that the rows have: what no load can move before what a clock said, ratios before totals.
MEASURES: Final = (
    _Measure(
        lambda r: r.train_flops, "Counted operations of training, times standard's", "{:g}×", "ratio", _operations
    ),
    _Measure(lambda r: r.train_cost, "Training time, times that of the standard defense", "{:g}×", "ratio", _ratios),
    _Measure(lambda r: r.train_operations, "Counted operations of training one model", "{:g}", "number", _operations),
    _Measure(lambda r: r.train_seconds, "Training time of one model, s", "{:g}", "seconds", _seconds),
)


@dataclass(frozen=True)
class _Point:
    """One defense: what it costs, from the cheapest to the dearest seed, and what it reaches, as a fraction."""

    row: Row
    cost: float
    least: float
    most: float
    value: float


@figure(order=30)
def cost_against_robustness(board: Board, tables: Tables) -> Figure | None:
    """Draw training cost against the ranking column, with intervals, the seeds' spread and the Pareto front."""
    reached = [r for r in plot_data.told(board) if r.value(board.ranking_column) is not None]
    measure = next((m for m in MEASURES if any(m.of(r) is not None for r in reached)), None)
    points = [p for r in reached if measure and (p := _point(board, r, measure)) is not None]
    if measure is None or len(points) < 2:
        return None
    best, label = front([(p.cost, p.value) for p in points]), measure.label
    spread = any(p.most > p.least for p in points)
    horizontal = (
        "; horizontal ones reach from the cheapest seed to the dearest" if spread else "; all seeds cost the same"
    )
    return Figure(
        name="cost",
        title=finding(board, points, best, measure),
        caption=f"Accuracy under {plot_data.title(board)} against {label[0].lower()}{label[1:]}. "
        "Vertical whiskers are 95 % intervals over images"
        f"{horizontal}.",
        alt=f"On the front, by rising cost: {formatting.listing([points[i].row.title for i in best])}.",
        panels=(
            Panel(
                "", _drawing(board, points, best, measure), narrow=_drawing(board, points, best, measure, narrow=True)
            ),
        ),
        legend="narrow",
        wide=True,
        keys=(Key("front: to reach more, one must pay more", shape="step"),),
        header=("Defense", "Cost", "Least seed", "Most seed", "Accuracy, %", "On the front"),
        numbers=tuple(
            (
                Value(p.row.title),
                *(Value(cost, measure.form) for cost in (p.cost, p.least, p.most)),
                Value(p.value, "percent", p.row.n),
                Value("yes" if i in best else "no"),
            )
            for i, p in enumerate(points)
        ),
    )


def finding(board: Board, points: list[_Point], best: list[int], measure: _Measure) -> str:
    """Return what the most robust costs, and what the cheapest on the front reaches.

    Args:
        board: what was measured.
        points: the defenses.
        best: places of those on the front, by rising cost.
        measure: of the cost.
    """
    top, cheap = points[best[-1]], points[best[0]]
    reach = {p.row.defense: f"{formatting.percent(p.value, p.row.n)}\u00a0%" for p in points}
    if top is cheap:
        return f"The most robust, {top.row.title} ({reach[top.row.defense]}), is the cheapest to train"
    times = f"{top.cost / cheap.cost:.1f}"
    return (
        f"The most robust, {top.row.title} ({reach[top.row.defense]}), costs {times}\u00a0× what "
        f"{cheap.row.title} does, which reaches {reach[cheap.row.defense]}"
    )


def _point(board: Board, row: Row, measure: _Measure) -> _Point | None:
    """Return where a defense lies; None where its cost is not known."""
    cost, value = measure.of(row), row.value(board.ranking_column)
    if cost is None or value is None:
        return None
    seeds = measure.seeds(row)
    mean = float(np.mean(seeds)) if seeds else 1.0
    low, high = (min(seeds) / mean, max(seeds) / mean) if seeds else (1.0, 1.0)
    return _Point(row, float(cost), cost * low, cost * high, value)


def _drawing(board: Board, points: list[_Point], best: list[int], measure: _Measure, narrow: bool = False) -> Drawing:
    """Draw the points with whiskers, names, and the front as steps."""
    sheet = Sheet(board, NARROW if narrow else WIDE, (44, 12, 48, 8))
    left, right = min(p.least for p in points) / 1.25, max(p.most for p in points) * 1.35
    heights = [100 * p.value for p in points]
    steps = [points[i].cost for i in best] + [right], [heights[i] for i in best] + [heights[best[-1]]]
    sheet.axes.step(*steps, where="post", color=svg.STRONG, lw=1.2, zorder=1)
    sheet.axes.set_xscale("log")
    ends = [100 * end for p in points for end in _interval(board, p)]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    sheet.axes.set_ylim(min(ends) - margin, max(ends) + margin)
    label = measure.label.partition(", ")[0] if narrow else f"{measure.label} (log scale)"
    sheet.axes.set(xlabel=label, xlim=(left, right))
    for p, y in zip(points, heights, strict=True):
        low, high = _interval(board, p)
        for xs, ys in (([p.cost, p.cost], [100 * low, 100 * high]), ([p.least, p.most], [y, y])):
            whisker: Any = {"color": sheet.looks[p.row.defense].colour, "lw": 1.4, "alpha": 0.5}
            sheet.mark(sheet.axes.plot(xs, ys, **whisker)[0], p.row)
        sheet.line(p.row, [p.cost], [y], markersize=MARK, ls="none")
    log_ticks(sheet.axes, "x", left, right, measure.tick)
    percent_ticks(sheet.axes)
    if not narrow:
        first = {row.defense for row in plot_data.drawn(board)}
        named = [i for i, p in enumerate(points) if i in best or p.row.defense in first]
        at = [(points[i].cost, heights[i]) for i in named]
        sheet.label_points([points[i].row for i in named], at, _taken(sheet, board, points, steps))
    return sheet.finish("cost-narrow" if narrow else "cost")


def _interval(board: Board, point: _Point) -> tuple[float, float]:
    """Return the interval of what a defense reaches; the number itself, twice, where it has none."""
    cell = point.row.cells[board.ranking]
    return (point.value if cell.low is None else cell.low), (point.value if cell.high is None else cell.high)


def _taken(sheet: Sheet, board: Board, points: list[_Point], steps: tuple[list[float], list[float]]) -> list[Box]:
    """Return the boxes of marks, whiskers and the steps of the front, in pixels."""
    strokes = [((a, u), (b, u)) for (a, u), (b, _) in pairwise(zip(*steps, strict=True))]
    for p in points:
        low, high = _interval(board, p)
        strokes += [((p.cost, 100 * low), (p.cost, 100 * high)), ((p.least, 100 * p.value), (p.most, 100 * p.value))]
    ends = sheet.axes.transData.transform(np.array(strokes).reshape(-1, 2)).reshape(-1, 4).tolist()
    marks = sheet.axes.transData.transform([(p.cost, 100 * p.value) for p in points]).tolist()
    lines = [(a - STROKE, b - STROKE, c + STROKE, d + STROKE) for a, b, c, d in ends]
    return [*lines, *((x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks)]


def front(points: list[tuple[float, float]]) -> list[int]:
    """Return the indices of the Pareto front, by rising first coordinate: no other costs as little and reaches more.

    Args:
        points: (cost, reached) each.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best, kept = -np.inf, list[int]()
    for i in order:
        if points[i][1] > best:
            best, kept = points[i][1], [*kept, i]
    return kept
