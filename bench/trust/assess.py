"""From stored numbers to the report on a model."""

from __future__ import annotations

from bench.trust.evidence import Evidence
from bench.trust.grade import grade
from bench.trust.records import Check, CheckResult, TrustReport
from bench.trust.registry import checks


def assess(evidence: Evidence) -> TrustReport:
    """Run every check for models of this track on what is known of one, and grade it.

    Args:
        evidence: what is known. For a model in memory, checks that need more than it (another row, stored files, a
            certificate) are not held against it where they are not assessable.

    Returns:
        The grade, and one result per check.
    """
    results = tuple(_result(c, evidence) for c in checks() if evidence.track in c.tracks)
    return TrustReport(grade(results, adaptive=evidence.adaptive), results, evidence.adaptive)


def _result(check: Check, evidence: Evidence) -> CheckResult:
    return CheckResult(check, check.function(evidence), counts=not (evidence.in_memory and check.needs))
