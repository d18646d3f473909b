"""Robust accuracies of one model at several radii, and whether an attack shows anywhere that it works."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.verdicts import MIN_IMAGES

FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # radii at which the trust evaluation attacks anew, over eps
TOO_DEAR: Final = "it would cost more than the passes that trust is allotted"
SHOWS: Final = (0.05, 0.95)  # a robust accuracy in between shows that the attack works and that there is more to break


def tested(evidence: Evidence) -> list[float]:
    """Return the robust accuracy of every attack at every radius tested, in the threat's norm."""
    columns = list(evidence.of_role("robust", norm=evidence.threat.norm))
    columns += [c for f in FACTORS if (c := evidence.number(f"e1_robust_{f:g}")) is not None]
    known = [values for column in columns if len(values := column.known()[1])]
    return [float(values.mean()) for values in known]


def lacks_power(evidence: Evidence) -> str:
    """Return why finding nothing would mean nothing: no attack breaks some images and leaves some; "" if one does."""
    low, high = SHOWS
    if any(low <= accuracy <= high for accuracy in tested(evidence)):
        return ""
    return "robust accuracy lies outside 5 to 95 % at every radius tested"


def survivors(evidence: Evidence) -> tuple[np.ndarray, int] | None:
    """Return places of the images that the row's attack left, and how many were attacked; None if not measured."""
    column = evidence.number("survivor")
    if column is None:
        return None
    index, values = column.known()
    return index[values == 1], len(index)


def nothing_left(evidence: Evidence) -> Finding | None:
    """Return a pass where the row's attack left no image: no value can be too high that is 0; None where it left some.

    It decides what asks whether an attack was too weak, without running any.
    """
    left = survivors(evidence)
    if left is None or len(left[0]) or left[1] < MIN_IMAGES:
        return None
    return Finding("pass", "the attack left no image: nothing can be broken in addition", 0.0, 0.0)


def searched(evidence: Evidence, names: tuple[str, ...]) -> tuple[np.ndarray, int] | None:
    """Return places of the surviving images that a search broke, and on how many images it was run.

    Args:
        evidence: what is known of the model.
        names: numbers that are 1 where a search broke the image, 0 where it did not or had not to; None is returned
            where one was not measured.
    """
    left, columns = survivors(evidence), [evidence.number(name) for name in names]
    if left is None or any(column is None for column in columns):
        return None
    known = [dict(zip(*(v.tolist() for v in c.known()), strict=True)) for c in columns if c is not None]
    there = set.intersection(*(set(values) for values in known))
    broken = [i for i in left[0].tolist() if i in there and any(values[i] == 1 for values in known)]
    return np.array(broken, dtype=int), len(there)
