"""What a figure is, and how a file of this folder registers the one it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from bench.reports.board.model import Board
from bench.reports.formatting import Lines

Tables: TypeAlias = Mapping[str, pd.DataFrame]  # defense to its per-example table


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure; `series` is the anchor of the defense that it belongs to, "" for all."""

    title: str
    svg: str
    series: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: its id in the page, [a-z0-9-]+.
        title: what it says, as a headline.
        caption: how to read it, with n and what the bands are.
        alt: the text for those who do not see it.
        panels: its drawings.
        legend: when the colours need the legend; "narrow": on small screens, where direct labels scroll off.
        wide: whether each panel takes the whole width.
        keys: (words, dash) of the kinds of line.
        header: headings of the table of its numbers.
        numbers: the table's lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    panels: tuple[Panel, ...]
    legend: Literal["always", "narrow", "never"] = "always"
    wide: bool = False
    keys: tuple[tuple[str, str], ...] = ()
    header: tuple[str, ...] = ()
    numbers: Lines = ()


Drawing: TypeAlias = Callable[[Board, Tables], Figure | None]
DRAWINGS: dict[str, tuple[float, Drawing]] = {}


def figure(order: float) -> Callable[[Drawing], Drawing]:
    """Register a function that draws a figure of the page.

    Args:
        order: its place among the figures; ours are 10, 20, 30 …

    Returns:
        The decorator, which returns the function unchanged.
    """

    def register(drawing: Drawing) -> Drawing:
        DRAWINGS[f"{drawing.__module__}.{drawing.__qualname__}"] = order, drawing
        return drawing

    return register
