"""Which colour, marker and dash a defense has: fixed in palette.toml, the same in every figure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

# matplotlib's markers as paths in a box of 12 × 12, so that legends show the same mark as the figures.
SHAPES: dict[str, str] = {
    "o": "M6 1a5 5 0 1 0 .01 0z",
    "s": "M1.6 1.6h8.8v8.8H1.6z",
    "^": "M6 .8l5.4 10H.6z",
    "D": "M6 .2L11.8 6 6 11.8.2 6z",
    "v": "M6 11.2l5.4-10H.6z",
    "P": "M4.2.8h3.6v3.4h3.4v3.6H7.8v3.4H4.2V7.8H.8V4.2h3.4z",
    "X": "M3.3.8L6 3.5 8.7.8l2.5 2.5L8.5 6l2.7 2.7-2.5 2.5L6 8.5l-2.7 2.7L.8 8.7 3.5 6 .8 3.3z",
    "<": "M.8 6l10-5.4v10.8z",
    ">": "M11.2 6l-10-5.4v10.8z",
    "p": "M6 .6l5.4 3.9-2.1 6.4H2.7L.6 4.5z",
}
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.2, 1.4), (6, 1.5, 1.2, 1.5))


@dataclass(frozen=True)
class Style:
    """How one defense is drawn.

    Attributes:
        slot: number of its CSS colour variable, --c<slot>.
        colour: the light theme's value, which matplotlib draws with before svg.py swaps in the variable.
        marker: matplotlib's marker, so that nobody depends on colour alone.
        dash: dash pattern in points; () is a solid line.
    """

    slot: int
    colour: str
    marker: str
    dash: tuple[float, ...]


def styles(defenses: Iterable[str]) -> dict[str, Style]:
    """Return the style of each defense, in the order given.

    The names in palette.toml keep their slot; the others take the free slots, then the used ones again with another
    marker and dash.
    """
    facts = _facts()
    colours, markers, slots = facts["light"], facts["markers"], facts["slots"]
    names = list(dict.fromkeys(defenses))
    places = {name: slots[name] for name in names if name in slots}
    free = [k for k in range(len(colours)) if k not in places.values()]
    free += range(len(colours), len(colours) + len(names))
    places |= dict(zip([name for name in names if name not in slots], free, strict=False))
    return {
        name: Style(
            slot=(k := places[name]) % len(colours),
            colour=colours[k % len(colours)],
            marker=markers[(k + k // len(colours)) % len(markers)],
            dash=DASHES[(k // len(colours)) % len(DASHES)],
        )
        for name in names
    }


@cache
def _facts() -> dict[str, Any]:
    """Return what palette.toml says."""
    return tomllib.loads(resources.files("bench.reports.figures").joinpath("palette.toml").read_text("utf-8"))
