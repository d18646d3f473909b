"""The grade: a pure function of the checks' results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bench.core.records import Grade
from bench.trust.records import CheckResult

MAY_BE_MISSING: Final = 2  # checks not assessable for grade B


def grade(results: Iterable[CheckResult], *, adaptive: bool) -> Grade:
    """Return the grade of a model's robust accuracy.

    INVALID: a validity check failed. C, an upper bound only: an adequacy check failed, more than `MAY_BE_MISSING` were
    not assessable, or none passed. B: a soft one failed, one or two were not assessable, or nobody declared an attack
    on this very defense. A: all pass, and an adaptive attack was declared.

    A failing check in addition never raises it, the order is irrelevant, and "not assessable" is not "pass".

    Args:
        results: one per check.
        adaptive: whether the defense's author declared an attack on it, which was run.
    """
    found = list(results)
    failed = {r.check.severity for r in found if r.verdict == "fail"}
    missing, passed = sum(r.missing for r in found), any(r.verdict == "pass" for r in found)
    if "validity" in failed:
        return Grade.INVALID
    if "adequacy" in failed or missing > MAY_BE_MISSING or not passed:
        return Grade.C
    return Grade.A if adaptive and not failed and not missing else Grade.B
