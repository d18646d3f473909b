"""What a check of trust is, what it found, and the report on a model: plain records, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from bench.core.records import Grade, Track
from bench.trust.evidence import Evidence

Verdict = Literal["pass", "fail", "not assessable"]
Severity = Literal["validity", "adequacy", "soft"]
NEEDS_MORE: Mapping[str, str] = {
    "row": "compares with other rows of the board",
    "files": "reads stored files",
    "certificate": "needs a certificate",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says about one model.

    Attributes:
        verdict: "pass", "fail", or "not assessable" where what it reads is missing or says too little.
        words: one sentence for the reader, with the number in it.
        value: the number that is compared; None if there is none.
        threshold: what it is compared with.
        images: places in the data set of the images concerned.
    """

    verdict: Verdict
    words: str
    value: float | None = None
    threshold: float | None = None
    images: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Sort the images."""
        object.__setattr__(self, "images", tuple(sorted(self.images)))


@dataclass(frozen=True, slots=True)
class Check:
    """A registered check.

    Attributes:
        name: e.g. "G3".
        title: what must hold, in a few words.
        severity: what a fail means: "validity", the row is INVALID; "adequacy", the accuracy is an upper bound only
            (grade C); "soft", grade B at best.
        source: paper and place.
        function: `function(evidence) -> Finding`.
        needs: "" if the evaluation of a single model in memory can answer it; else one of `NEEDS_MORE`: for a model in
            memory its absence does not count.
        tracks: of the models that it is about.
    """

    name: str
    title: str
    severity: Severity
    source: str
    function: Callable[[Evidence], Finding]
    needs: str = ""
    tracks: tuple[Track, ...] = ("deterministic", "randomised")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check and what it found.

    Attributes:
        check: the check.
        finding: what it found.
        counts: False where "not assessable" is not held against the model.
    """

    check: Check
    finding: Finding
    counts: bool = True

    @property
    def name(self) -> str:
        """Name of the check, e.g. "G3"."""
        return self.check.name

    @property
    def verdict(self) -> Verdict:
        """What was found."""
        return self.finding.verdict

    @property
    def missing(self) -> bool:
        """Whether it is not assessable and that counts."""
        return self.verdict == "not assessable" and self.counts


class CheckData(TypedDict):
    """A check's result as plain data."""

    title: str
    severity: str
    verdict: str
    value: float | None
    threshold: float | None
    images: list[int]
    words: str


class TrustData(TypedDict):
    """A report as plain data: what `attrs["trust"]` holds."""

    grade: str
    reasons: list[str]
    adaptive: bool
    checks: dict[str, CheckData]
    note: NotRequired[str]


@dataclass(frozen=True, slots=True)
class TrustReport:
    """The grade of one model (one defense and seed), and why.

    Attributes:
        grade: from A, the best, to INVALID.
        results: one per check, in the order of the checks.
        adaptive: whether an attack on this very defense was declared, and run.
    """

    grade: Grade
    results: tuple[CheckResult, ...]
    adaptive: bool

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed, gravest first."""
        order = ("validity", "adequacy", "soft")
        return tuple(r for s in order for r in self.results if r.verdict == "fail" and r.check.severity == s)

    @property
    def missing(self) -> tuple[CheckResult, ...]:
        """The checks that were not assessable, where that counts."""
        return tuple(r for r in self.results if r.missing)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What parts the grade from A, in words: failed checks, then those that could not be made, then the rest."""
        declared = () if self.adaptive else ("no attack made for this very defense was declared",)
        failed = (f"{r.name}: {r.finding.words}" for r in self.failed)
        return (*failed, *(f"{r.name} not assessable: {r.finding.words}" for r in self.missing), *declared)

    def as_data(self) -> TrustData:
        """Return the report as plain data: grade, reasons, adaptive, and checks by name."""
        return {
            "grade": self.grade.name,
            "reasons": list(self.reasons),
            "adaptive": self.adaptive,
            "checks": {
                r.name: {
                    "title": r.check.title,
                    "severity": r.check.severity,
                    "verdict": r.verdict,
                    "value": r.finding.value,
                    "threshold": r.finding.threshold,
                    "images": list(r.finding.images),
                    "words": r.finding.words,
                }
                for r in self.results
            },
        }
