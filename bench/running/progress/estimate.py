"""How long a run will still take: every cell weighed by what it costs, measured against the clock as cells end.

A cell's size is its expected cost in a unit that all cells share: seconds of an earlier run, or passes through the
network. What one unit takes here and now comes from the cells that have ended in this run, and from those that are
under way. Where a cell that is left has no size and none of its kind has ended, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ENDED_CELLS: Final = 3  # cells, or
ENDED_SHARE: Final = 0.05  # a share of the whole, that must have ended before an estimate is given
TRUSTED_SHARE: Final = 0.2  # of a cell, from which on its own pace counts


@dataclass(frozen=True, slots=True)
class Size:
    """What a cell is expected to cost.

    Attributes:
        kind: cells of one kind cost alike per image: "train lcnn", "autoattack_l2".
        units: expected cost; None: unknown.
        images: images that it goes through; for a training, over all epochs.
    """

    kind: str
    units: float | None
    images: int


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A cell that is being computed.

    Attributes:
        seconds: since it was begun by the clock.
        share: how much of what was left when it was begun is done, in [0, 1]; 0 where that is not known.
        left: how much of the cell was left when it was begun, in [0, 1].
    """

    seconds: float
    share: float = 0.0
    left: float = 1.0


def time_left(
    sizes: Mapping[str, Size], ended: Mapping[str, float], under_way: Mapping[str, UnderWay], processes: int
) -> float | None:
    """Return the seconds until all cells are done, None where nothing that is true can be said.

    Args:
        sizes: cell to its size, for the cells that were not stored when the run began.
        ended: cell to the seconds that it took in this run, failed ones included.
        under_way: cell to how far it is.
        processes: how many compute.
    """
    left = [name for name in sizes if name not in ended]
    if not left:
        return 0.0
    whole = sum(sizes[name].units or 0.0 for name in sizes)
    done = sum(sizes[name].units or 0.0 for name in ended if name in sizes)
    if len(ended) < ENDED_CELLS and not (whole and done / whole >= ENDED_SHARE):
        return None
    pace = Pace(sizes, ended, under_way)
    rest = {name: pace.rest(name, under_way.get(name)) for name in left}
    known = [seconds for seconds in rest.values() if seconds is not None]
    if len(known) < len(rest):
        return None
    return max(sum(known) / max(1, processes), max(known))


class Pace:
    """What cells take in this run."""

    def __init__(
        self, sizes: Mapping[str, Size], ended: Mapping[str, float], under_way: Mapping[str, UnderWay]
    ) -> None:
        self._sizes = sizes
        past = [(sizes[name], seconds) for name, seconds in ended.items() if name in sizes]
        self._kinds = _by_kind(past)
        measured = [(size.units, seconds) for size, seconds in past if size.units]
        for name, cell in under_way.items():
            if name in sizes and (units := sizes[name].units) and cell.share >= TRUSTED_SHARE:
                measured.append((units * cell.left * cell.share, cell.seconds))
        units = sum(u for u, _ in measured)
        self._seconds_per_unit = sum(s for _, s in measured) / units if units else None

    def rest(self, name: str, cell: UnderWay | None) -> float | None:
        """Return the seconds that a cell will still take, None if that is not known."""
        whole = self._whole(self._sizes[name])
        if cell is None:
            return whole
        own = cell.seconds * (1 - cell.share) / cell.share if cell.share >= TRUSTED_SHARE else None
        if own is not None or whole is None:
            return own
        return max(whole * cell.left - cell.seconds, 0.1 * whole * cell.left)

    def _whole(self, size: Size) -> float | None:
        if (seconds := self._kinds.get(size.kind)) is not None:
            return seconds * size.images
        return None if size.units is None or self._seconds_per_unit is None else size.units * self._seconds_per_unit


def _by_kind(past: Iterable[tuple[Size, float]]) -> dict[str, float]:
    """Return the seconds per image of each kind of which cells have ended."""
    sums: dict[str, list[float]] = {}
    for size, seconds in past:
        total = sums.setdefault(size.kind, [0.0, 0.0])
        total[0], total[1] = total[0] + seconds, total[1] + size.images
    return {kind: seconds / images for kind, (seconds, images) in sums.items() if images}


def in_words(seconds: float) -> str:
    """Return a duration as a reader says it: "40 s", "12 min", "2.5 h".

    Args:
        seconds: ≥ 0.
    """
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s" if seconds >= 2.5 else f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
