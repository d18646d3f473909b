"""What is known of the instruments themselves, measured once per version and shipped with it, not per board."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

import bench.trust
from bench.trust.museum import STORED, MuseumReport, read_report

DETECTION: Final = Path(bench.trust.__file__).parent / "measured" / "detection.json"


class _Record(BaseModel):
    """A frozen record of which we read some fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Origin(_Record):
    """Where a measurement comes from."""

    command: str
    commit: str
    date: str
    machine: str


class HardnessLevel(_Record):
    """One level of hardness.

    Attributes:
        hardness_bits: −log2 of the share of uniform starts whose largest piece is the planted one; None: none.
        own_decoys: whether the planted class has decoys too; the others do not count for a limit.
    """

    hardness_bits: float | None
    own_decoys: bool


class DetectionCurve(_Record):
    """What one attack found.

    Attributes:
        attack: its name.
        settings: how it was set.
        used_by_suites: whether the shipped suites rank by it or list it.
        images_per_network: images of each network.
        share: found, per level.
        interval: its 95 % interval.
        limit_bits: hardness up to which it finds 95 %, on the line between two levels.
        limit_between: those two levels; None: it still does at the hardest.
    """

    attack: str
    settings: str
    used_by_suites: bool
    images_per_network: int
    share: tuple[float, ...]
    interval: tuple[tuple[float, float], ...]
    limit_bits: float
    limit_between: tuple[float, float | None]

    @property
    def limit(self) -> str:
        """The limit in words: "1.5", or "at least 6.0" where no harder level was measured."""
        return f"{'at least ' if self.limit_between[1] is None else ''}{self.limit_bits:.1f}"


class Detection(_Record):
    """Recall on planted adversarial examples, attack by attack.

    Attributes:
        levels: of hardness.
        attacks: in the order of the table.
        network_seeds: one network per level and seed.
        measured: where it comes from.
    """

    levels: tuple[HardnessLevel, ...]
    attacks: tuple[DetectionCurve, ...]
    network_seeds: tuple[int, ...]
    measured: Origin

    @property
    def own(self) -> list[DetectionCurve]:
        """The attacks that the suites use."""
        return [curve for curve in self.attacks if curve.used_by_suites]

    @property
    def limits(self) -> str:
        """The limits of the suites' own attacks in one phrase: "pgd 0.3 bits, autoattack 1.5 bits"."""
        return ", ".join(f"{curve.attack} {curve.limit} bits" for curve in self.own)


def read_museum(path: Path = STORED) -> MuseumReport | None:
    """Return the museum's report that is shipped with this version; None where there is none.

    Args:
        path: a file that `python -m bench doctor --museum --save FILE` wrote.
    """
    return read_report(path) if path.is_file() else None


def read_detection(path: Path = DETECTION) -> Detection | None:
    """Return the measurement that is shipped with this version; None where there is none.

    Args:
        path: a file that `python -m bench doctor --detection --save FILE` wrote.
    """
    return Detection.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
