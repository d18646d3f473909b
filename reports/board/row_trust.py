"""The trust of one row of the board: its worst seed's grade, and what keeps it from being better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.core.records import Grade
from bench.reports import formatting
from bench.trust.grade import MAY_BE_MISSING
from bench.trust.records import CheckResult, TrustReport


@dataclass(frozen=True, slots=True)
class RowTrust:
    """The trust of one defense over its seeds.

    Attributes:
        grade: that of its worst seed. None where trust was not assessed: on no seed, or not on all of them and those
            that were have a better grade than C.
        seed: the seed with that grade; None without a grade.
        reports: seed to the report on its model.
        violated: theorems that were seen broken: the row is INVALID, whatever the checks say.
    """

    grade: Grade | None = None
    seed: int | None = None
    reports: Mapping[int, TrustReport] = field(default_factory=dict)
    violated: int = 0

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed on any seed, those of the worst seed first, gravest first."""
        seeds = sorted(self.reports, key=lambda seed: (seed != self.seed, -self.reports[seed].grade))
        names = [result.name for seed in seeds for result in self.reports[seed].failed]
        return tuple(dict.fromkeys([*(["bounds"] if self.violated else []), *names]))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What keeps the grade from being better, in words: the worst seed's failed and missing checks."""
        bounds = (f"{formatting.plural(self.violated, 'proved bound')} violated",) if self.violated else ()
        report = None if self.seed is None else self.reports.get(self.seed)
        if report is None:
            return bounds
        named = tuple(f"{result.name}: {result.finding.words}" for result in report.failed)
        return (*bounds, *named, *missing_words(report))

    @property
    def short_of_a(self) -> tuple[str, ...]:
        """Everything that parts its worst seed from grade A, in words; nothing for a row that has it."""
        report = None if self.seed is None else self.reports.get(self.seed)
        if report is None or self.grade is None:
            return self.reasons
        missing = missing_words(report)
        names = formatting.listing([result.name for result in report.missing])
        few = (f"could not be made: {names}",) if names and not missing else ()
        declared = () if report.adaptive else ("no attack made for this very defense was declared",)
        return (*self.reasons, *few, *declared)

    @property
    def who(self) -> str:
        """The seed that gave the grade, where the seeds differ in grade or failed checks: "seed 1"; else ""."""
        kinds = {(found.grade, tuple(result.name for result in found.failed)) for found in self.reports.values()}
        return f"seed {self.seed}" if self.seed is not None and len(kinds) > 1 else ""


def missing_words(report: TrustReport) -> tuple[str, ...]:
    """Return the checks that could not be made as one phrase, where that alone caps the grade; else nothing.

    Args:
        report: on one model.
    """
    names = [result.name for result in report.missing]
    if len(names) <= MAY_BE_MISSING:
        return ()
    return (f"{len(names)} checks could not be made: {formatting.listing(names)}",)


def row_trust(reports: Mapping[int, TrustReport], seeds: Sequence[int], violated: int = 0) -> RowTrust:
    """Return the trust of one defense: its worst seed's, and nothing where a better seed might be the worst.

    Args:
        reports: seed to report, of the seeds that were assessed.
        seeds: all seeds that have been evaluated.
        violated: theorems that were seen broken.
    """
    worst = max(reports, key=lambda seed: (reports[seed].grade, len(reports[seed].failed)), default=None)
    grade = None if worst is None else reports[worst].grade
    if grade is not None and grade < Grade.C and set(seeds) - set(reports):
        worst, grade = None, None
    return RowTrust(Grade.INVALID if violated else grade, worst, reports, violated)


def failing(report: TrustReport) -> tuple[CheckResult, ...]:
    """Return the results that a reader should see first: failed ones, gravest first, then those that are missing.

    Args:
        report: on one model.
    """
    return (*report.failed, *report.missing)
