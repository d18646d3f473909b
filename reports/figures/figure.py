"""What a figure is, and how a file of this folder registers the one it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from bench.reports.board.model import Board
from bench.reports.figures.drawing import Drawing
from bench.reports.formatting import Lines

Tables: TypeAlias = Mapping[str, pd.DataFrame]  # defense to its per-example table


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
        title: what it shows.
        drawing: for the page and for files.
        series: the anchor of the defense that it belongs to, "" for all.
        narrow: the same for small screens; None: it is narrow enough.
    """

    title: str
    drawing: Drawing
    series: str = ""
    narrow: Drawing | None = None


@dataclass(frozen=True)
class Key:
    """One entry of the key of marks: its words, and a line with its dash, a ring, or a step."""

    words: str
    dash: str = ""
    shape: Literal["line", "ring", "step"] = "line"


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        name: its id in the page, [a-z0-9-]+.
        title: its finding, computed from the numbers.
        caption: how to read it, with n and what the bands are.
        alt: the text for those who do not see it.
        panels: its drawings.
        legend: when the colours need the legend; "narrow": on small screens, where direct labels scroll off.
        wide: whether each panel takes the whole width.
        folded: whether it stands under "More figures".
        keys: what kinds of line and mark mean.
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
    folded: bool = False
    keys: tuple[Key, ...] = ()
    header: tuple[str, ...] = ()
    numbers: Lines = ()


Maker: TypeAlias = Callable[[Board, Tables], Figure | None]
MAKERS: dict[str, tuple[float, Maker]] = {}


def figure(order: float) -> Callable[[Maker], Maker]:
    """Register a function that draws a figure of the page.

    Args:
        order: its place among the figures; ours are 10, 20, 30 …

    Returns:
        The decorator, which returns the function unchanged.
    """

    def register(maker: Maker) -> Maker:
        MAKERS[f"{maker.__module__}.{maker.__qualname__}"] = order, maker
        return maker

    return register
