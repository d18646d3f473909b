"""Where labels go so that none covers another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np

Box: TypeAlias = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
CLEAR: Final = 9.0  # pixels between a point and its label
STEP: Final = 7.0  # pixels between two places that are tried
STEPS: Final = 14  # of them in each direction
CROWDED: Final = 60.0  # pixels within which points crowd each other
OUTSIDE: Final = 40.0  # cost of a pixel that stands out of the room


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


def place(
    points: list[tuple[float, float]], sizes: list[tuple[float, float]], taken: list[Box], room: Box
) -> list[Box]:
    """Return a box beside each point for its label: one that covers as little as possible, the nearest of these.

    Points are served from the most crowded on. Where every place covers something, the one that covers least is taken.

    Args:
        points: (x, y) each, in pixels.
        sizes: width and height of each label, in pixels.
        taken: boxes that no label should cover: marks, whiskers.
        room: box that holds all labels.

    Returns:
        A box per point, in the order given.
    """
    crowd = [sum(np.hypot(x - u, y - v) < CROWDED for u, v in points) for x, y in points]
    found: dict[int, Box] = {}
    for k in sorted(range(len(points)), key=lambda k: (-crowd[k], points[k])):
        far, boxes = zip(*_around(points[k], sizes[k]), strict=True)
        others, tried = np.array([*taken, *found.values()]).reshape(-1, 4), np.array(boxes)
        costs = np.array(far) + _covered(tried, others) + OUTSIDE * _outside(tried, room)
        found[k] = boxes[int(np.argmin(costs))]
    return [found[k] for k in range(len(points))]


def _around(point: tuple[float, float], size: tuple[float, float]) -> Iterator[tuple[float, Box]]:
    """Yield (distance, box) around a point: right, left, above and below, near ones first."""
    (x, y), (width, height) = point, size
    for k in range(STEPS):
        for up in (k * STEP, -k * STEP):
            for left in (x + CLEAR + k, x - CLEAR - width - k, x - width / 2):
                if left < x < left + width and abs(up) < height / 2 + CLEAR:
                    continue  # on the mark itself
                yield k * STEP, (left, y + up - height / 2, left + width, y + up + height / 2)


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area of other boxes (m, 4) that each of some boxes (n, 4) covers, in square pixels, (n,)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    covered: np.ndarray = np.clip(high - low, 0.0, None).prod(axis=2).sum(axis=1)
    return covered


def _outside(boxes: np.ndarray, room: Box) -> np.ndarray:
    """Return by how many pixels each of some boxes (n, 4) stands out of the room, (n,)."""
    low, high = np.array(room[:2]), np.array(room[2:])
    outside: np.ndarray = (np.clip(low - boxes[:, :2], 0, None) + np.clip(boxes[:, 2:] - high, 0, None)).sum(axis=1)
    return outside
