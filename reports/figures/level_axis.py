"""A horizontal axis of measured levels: spans far wider than the usual step are shortened and marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.reports.figures import svg

WIDER: Final = 2.0  # times the usual step, from which on a span counts as unmeasured
SHORTENED: Final = 1.7  # length of such a span, in usual steps


@dataclass(frozen=True)
class LevelAxis:
    """Where levels lie.

    Attributes:
        places: level to its place, in usual steps from the first.
        unmeasured: spans (from, to) of levels between which nothing was measured.
    """

    places: dict[float, float]
    unmeasured: tuple[tuple[float, float], ...]

    def part(self, levels: Sequence[float]) -> list[list[float]]:
        """Return rising levels in groups: a span without measurements lies between two of them.

        Args:
            levels: of one curve.
        """
        groups: list[list[float]] = []
        for level in levels:
            new = not groups or any(groups[-1][-1] <= a and b <= level for a, b in self.unmeasured)
            groups = [*groups, [level]] if new else [*groups[:-1], [*groups[-1], level]]
        return groups

    def draw(self, axes: Axes) -> None:
        """Label the levels, and mark where the axis is shortened.

        Args:
            axes: to be labelled.
        """
        shown = list(self.places.items())
        axes.xaxis.set_major_locator(FixedLocator([x for _, x in shown]))
        names = {round(x, 6): f"{level:g}" for level, x in shown}
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(round(float(x), 6), "")))
        for a, b in self.unmeasured:
            middle = (self.places[a] + self.places[b]) / 2
            for x in (middle - 0.05, middle + 0.05):
                stroke = ([x - 0.03, x + 0.03], [-0.018, 0.018])
                axes.plot(*stroke, transform=axes.get_xaxis_transform(), color=svg.STRONG, lw=1.2, clip_on=False)


def level_axis(levels: Sequence[float]) -> LevelAxis:
    """Return where levels lie: in proportion, but a span of more than twice the usual step is shortened.

    The usual step is the lower median of the steps.

    Args:
        levels: rising, at least one.
    """
    steps = [b - a for a, b in pairwise(levels)]
    usual = sorted(steps)[(len(steps) - 1) // 2] if steps else 1.0
    places, unmeasured, x = {levels[0]: 0.0}, list[tuple[float, float]](), 0.0
    for a, b in pairwise(levels):
        wide = b - a > WIDER * usual
        x += SHORTENED if wide else (b - a) / usual
        places[b] = x
        unmeasured += [(a, b)] if wide else []
    return LevelAxis(places, tuple(unmeasured))
