"""Robust accuracies of one model at several radii, and whether an attack shows anywhere that it works."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.evidence import Evidence

FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # radii at which the trust evaluation attacks anew, over eps
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
