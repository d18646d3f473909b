"""Four checks of trust on three stored numbers, so that the reports' tests do not move when a check is added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from bench.core.records import Column
from bench.trust.evidence import Evidence
from bench.trust.records import Check, Finding, Severity
from bench.trust.verdicts import flagged, largest, missing

PARAMS = {"norm": "l2"}
COLUMNS = {
    f"trust_{number}": Column(
        f"What {check} reads.", kind=kind, role="trust", params=PARAMS | {"check": check, "number": number}
    )
    for check, number, kind in (
        ("V3", "v3_repeat_difference", "value"),
        ("G2", "g2_zero_ce_gradient", "flag"),
        ("G3", "g3_error", "value"),
    )
}
# What an image must have for its model to get the grade; A needs a declared attack, and B here misses T1.
MARKS = {"B": (0.0, False, 0.01), "C": (0.0, False, 0.4), "INVALID": (0.5, False, 0.01), "B soft": (0.0, True, 0.01)}


def table(n: int, grade: str) -> pd.DataFrame:
    """Return the trust evaluation's numbers of a model that these checks give a grade."""
    difference, zero, error = MARKS[grade]
    zeros = np.arange(n) % 10 == 0 if zero else np.zeros(n, bool)
    numbers = {"v3_repeat_difference": np.full(n, difference), "g2_zero_ce_gradient": zeros, "g3_error": error}
    return pd.DataFrame({f"trust_{name}": values for name, values in numbers.items()}, index=range(n))


def _v3(evidence: Evidence) -> Finding:
    return largest(evidence.number("v3_repeat_difference"), 1e-4, "five calls differ by {value} of the logits at most")


def _g2(evidence: Evidence) -> Finding:
    return flagged(evidence.number("g2_zero_ce_gradient"), 0.01, "cross-entropy has no gradient on {k} of {n} images")


def _g3(evidence: Evidence) -> Finding:
    return largest(evidence.number("g3_error"), 0.1, "a small step changes the function by {value} more than it says")


def _t1(evidence: Evidence) -> Finding:
    return missing("the binarisation test was not run")


def checks() -> tuple[Check, ...]:
    """Return the four: V3 (validity), G2 (soft), G3 (adequacy), and T1 (adequacy), which is never assessable."""
    entries: list[tuple[str, str, Severity, Any]] = [
        ("V3", "the same answer every time", "validity", _v3),
        ("G2", "cross-entropy has a gradient", "soft", _g2),
        ("G3", "gradient agrees with differences of the function", "adequacy", _g3),
        ("T1", "planted examples are found", "adequacy", _t1),
    ]
    return tuple(Check(name, title, severity, "a paper", f) for name, title, severity, f in entries)


@contextmanager
def in_place() -> Iterator[None]:
    """Assess with these four checks alone while the context is open."""
    with patch("bench.trust.assess.checks", checks):
        yield
