"""Which colour, marker and dash a defense has: fixed in palette.toml, the same in every figure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

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
    facts = tomllib.loads(resources.files("bench.reports").joinpath("palette.toml").read_text("utf-8"))
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
