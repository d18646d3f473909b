"""Where labels go so that none covers another."""

from __future__ import annotations

import numpy as np


def spread(places: list[float], gap: float) -> list[float]:
    """Move rising places apart until neighbours are `gap` apart, keeping each group centred where it was.

    Args:
        places: ascending.
        gap: least distance of two neighbours.

    Returns:
        The places, ascending, in the order given.
    """
    groups = [[p] for p in places]
    centres = list(places)
    k = 0
    while k + 1 < len(groups):
        a, b = groups[k], groups[k + 1]
        if centres[k] + gap * (len(a) - 1) / 2 + gap > centres[k + 1] - gap * (len(b) - 1) / 2:
            groups[k : k + 2] = [a + b]
            centres[k : k + 2] = [float(np.mean(a + b))]
            k = max(0, k - 1)
        else:
            k += 1
    return [c + gap * (i - (len(g) - 1) / 2) for g, c in zip(groups, centres, strict=True) for i in range(len(g))]


def within(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move rising places into [low, high] with `gap` between neighbours; too many of them go on below it.

    Args:
        places: ascending.
        gap: least distance of two neighbours.
        low: lower end of the room.
        high: upper end.

    Returns:
        The places, ascending, in the order given.
    """
    kept: list[float] = []
    for place in places:
        kept.append(max(place, kept[-1] + gap if kept else low))
    for i in range(len(kept) - 1, -1, -1):
        kept[i] = min(kept[i], kept[i + 1] - gap if i + 1 < len(kept) else high)
    return kept
