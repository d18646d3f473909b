"""Detection curves: shares found against hardness with their intervals, and the hardness up to which 95 % is found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.core.stats.intervals import fraction_interval
from bench.trust.maxout import Level

REQUIRED_RECALL: Final = 0.95


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """One level of hardness, over all network seeds.

    Attributes:
        level: how the networks were built.
        easy_starts: share of uniform starts whose largest piece is the planted one.
        easy_class_starts: the same share with only the planted class's pieces compared.
    """

    level: Level
    easy_starts: float
    easy_class_starts: float

    @property
    def hardness(self) -> float:
        """−log2 of the share of easy starts, in bits; infinite if there were none."""
        return -math.log2(self.easy_starts) if self.easy_starts else math.inf


@dataclass(frozen=True, slots=True)
class Curve:
    """What one attack found.

    Attributes:
        attack: its name in the report.
        found: images found per level and network seed, shape (levels, seeds).
        images: images per network.
        ranks_suites: whether the shipped suites use it.
        note: how it was set.
        family: what it is compared with.
        library: the other library that it is of; "" for an attack of our own.
    """

    attack: str
    found: np.ndarray
    images: int
    ranks_suites: bool
    note: str
    family: str = ""
    library: str = ""

    def shares(self) -> np.ndarray:
        """Return the share found per level, over all seeds, (levels,)."""
        return self.found.mean(1) / self.images

    def intervals(self) -> list[tuple[float, float]]:
        """Return the 95 % interval of each share: Wilson, exact where all or none were found."""
        total = self.images * self.found.shape[1]
        return [fraction_interval(float(share), total) for share in self.shares()]


@dataclass(frozen=True, slots=True)
class Limit:
    """The hardness up to which an attack finds at least 95 %, in bits.

    Attributes:
        held: the hardest level at which it still does; 0 if there is none.
        missed: the next harder level; infinite if there is none.
        bits: where the line between the two crosses 95 %; `held` if no harder level was measured.
    """

    held: float
    missed: float
    bits: float


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """All curves.

    Attributes:
        levels: in the order in which they were measured.
        curves: one per attack.
        seeds: of the networks.
        not_installed: attacks whose library is absent.
    """

    levels: tuple[MeasuredLevel, ...]
    curves: tuple[Curve, ...]
    seeds: tuple[int, ...]
    not_installed: tuple[str, ...]

    def limit(self, curve: Curve) -> Limit:
        """Return an attack's limit over the levels at which every class has decoys."""
        points = sorted(
            (level.hardness, float(share))
            for level, share in zip(self.levels, curve.shares(), strict=True)
            if level.level.own
        )
        return find_limit(points)

    def record(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "levels": [_level_record(level) for level in self.levels],
            "attacks": [self._curve_record(curve) for curve in self.curves],
            "network_seeds": list(self.seeds),
            "not_installed": list(self.not_installed),
            "required_recall": REQUIRED_RECALL,
        }

    def _curve_record(self, curve: Curve) -> dict[str, object]:
        limit = self.limit(curve)
        return {
            "attack": curve.attack,
            "settings": curve.note,
            "family": curve.family,
            "library": curve.library,
            "used_by_suites": curve.ranks_suites,
            "images_per_network": curve.images,
            "found": curve.found.tolist(),
            "share": curve.shares().tolist(),
            "interval": [list(interval) for interval in curve.intervals()],
            "limit_bits": limit.bits,
            "limit_between": [limit.held, None if math.isinf(limit.missed) else limit.missed],
        }


def find_limit(points: Iterable[tuple[float, float]]) -> Limit:
    """Return the hardness at which recall first falls below 95 %.

    Args:
        points: (hardness in bits, share found), in ascending hardness.

    Returns:
        The two levels between which it lies, and the crossing of the straight line between them.
    """
    held, share = 0.0, 1.0  # at hardness 0 every start leads to the planted example
    for hardness, next_share in points:
        if next_share < REQUIRED_RECALL:
            crossing = held + (hardness - held) * (share - REQUIRED_RECALL) / (share - next_share)
            return Limit(held, hardness, crossing if math.isfinite(crossing) else held)
        held, share = hardness, next_share
    return Limit(held, math.inf, held)


def summary_line(report: DetectionReport) -> str:
    """Return one line on the attacks that the suites use: the hardness up to which each finds 95 %.

    Args:
        report: a finished measurement.

    Returns:
        The line; it names what was measured, recall on multi-basin truth, and nothing more general.
    """
    parts = []
    for curve in report.curves:
        if curve.ranks_suites:
            limit = report.limit(curve)
            beyond = "at least " if math.isinf(limit.missed) else ""
            parts.append(f"{curve.attack} {beyond}{limit.bits:.1f} bits")
    return f"the suites' own attacks find 95 % of multi-basin truth up to a hardness of: {', '.join(parts)}"


def _level_record(level: MeasuredLevel) -> dict[str, object]:
    return {
        "tau": level.level.tau,
        "own_decoys": level.level.own,
        "decoys_per_class": level.level.per_class,
        "hardness_bits": level.hardness if math.isfinite(level.hardness) else None,
        "easy_starts": level.easy_starts,
        "easy_class_starts": level.easy_class_starts,
    }
