"""Ticks in plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator


def ticks(axes: Axes, at: list[float], form: str, which: str, least: float = 0.0) -> None:
    """Label exactly these places, leaving out labels nearer than `least` to the one before.

    Args:
        axes: to be labelled.
        at: places, ascending.
        form: format string of a label, e.g. "{:g}".
        which: "x" or "y".
        least: in units of the axis.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    kept: list[float] = []
    for place in at:
        if not kept or place - kept[-1] >= least:
            kept.append(place)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_major_formatter(FuncFormatter(lambda v, _: form.format(v)))


def log_ticks(axes: Axes, which: str, low: float, high: float, form: str) -> None:
    """Label powers of ten in plain numbers, or finer steps where these are fewer than three; no two labels touch.

    Args:
        axes: to be labelled.
        which: "x" or "y".
        low: lower end of the axis, > 0.
        high: upper end.
        form: format string of a label, e.g. "{:g}".
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    figure: Any = axes.get_figure(root=True)
    length = 72 * figure.get_size_inches()[0] * axes.get_position().width

    def apart(a: float, b: float) -> bool:
        """Tell whether two labels keep clear of each other: by their letters side by side, by a share on top."""
        least = (3.8 * len(form.format(a) + form.format(b)) + 8) / length if which == "x" else 0.075
        return bool(np.log10(b / a) >= least * np.log10(high / low))

    kept: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        at = [float(f"{s}e{e}") for e in range(first, last + 1) for s in steps]
        kept = _apart([v for v in at if low <= v <= high], apart)
        if len(kept) >= 3:
            break
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: form.format(v)))


def _apart(at: list[float], apart: Callable[[float, float], bool]) -> list[float]:
    """Leave out places that are not apart from the one before."""
    kept: list[float] = []
    for place in at:
        if not kept or apart(kept[-1], place):
            kept.append(place)
    return kept


def percent_ticks(axes: Axes) -> None:
    """Label the vertical axis, whose numbers are per cent, with their sign."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
