"""What the museum found: which check saw which fake, and whether that is what should have been seen. Pure records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

Kind = Literal["fake", "weak", "honest"]
Outcome = Literal["seen", "refused", "missed", "measured", "overstated", "unflagged", "flagged", "skipped"]

DOOR: Final = "door"  # the model contract, which refuses before anything is measured
FAIL: Final = "fail"
RANKED: Final = ("A", "B")  # grades of rows that are ranked
SLACK: Final = 0.02  # share of the images by which a robust accuracy may exceed what the adaptive attack finds
STORED: Final = Path(__file__).parent / "measured" / "museum.json"
GROUPS: Final[Mapping[Kind, str]] = {"fake": "fakes", "weak": "weak", "honest": "honest"}

_WRONG: Final[frozenset[Outcome]] = frozenset({"missed", "overstated", "flagged"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured of one exhibit.

    Attributes:
        exhibit: its name.
        kind: "fake", "weak" or "honest".
        idea: what it is, one sentence.
        source: where the idea comes from.
        expected: names of the checks that must fail, or `DOOR`.
        images: how many it was measured on.
        refused: why the model contract or an evaluation refused it, "" if it was measured.
        skipped: why it was not looked at, "" if it was.
        clean: accuracy, None if refused.
        robust: robust accuracy as the standard attacks report it, None if refused.
        adaptive: what is left after the attack that knows the trick, None without one.
        grade: of the trust checks, "" if refused.
        verdicts: "pass", "fail" or "not assessable" by name of the check.
        words: sentence of each failed check.
        seconds: CPU time.
    """

    exhibit: str
    kind: Kind
    idea: str
    source: str
    expected: tuple[str, ...] = ()
    images: int = 0
    refused: str = ""
    skipped: str = ""
    clean: float | None = None
    robust: float | None = None
    adaptive: float | None = None
    grade: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def fired(self) -> tuple[str, ...]:
        """Names of the checks that failed, and `DOOR` if it was refused."""
        return (*([DOOR] if self.refused else []), *(n for n, v in self.verdicts.items() if v == FAIL))

    @property
    def missed(self) -> tuple[str, ...]:
        """Names of the expected checks that did not fail."""
        return tuple(name for name in self.expected if name not in self.fired)

    @property
    def overstated(self) -> bool:
        """Whether it would be ranked with more robust accuracy than the adaptive attack leaves.

        Allowed are `SLACK` of the images or two images, whichever is more.
        """
        if self.grade not in RANKED or self.robust is None or self.adaptive is None:
            return False
        return self.robust - self.adaptive > max(SLACK, 2 / max(self.images, 1)) + 1e-9

    @property
    def outcome(self) -> Outcome:
        """What became of it: fakes are to be seen or refused, weak ones measured, honest ones unflagged."""
        if self.skipped:
            return "skipped"
        if self.kind == "honest":
            return "unflagged" if self.grade in RANKED else "flagged"
        if self.overstated:
            return "overstated"
        if self.kind == "weak":
            return "flagged" if self.refused else "measured"
        if self.missed:
            return "missed"
        return "refused" if self.refused else "seen"

    @property
    def wrong(self) -> bool:
        """Whether the release gate fails on it."""
        return self.outcome in _WRONG

    def record(self) -> dict[str, object]:
        """Return it as plain data, with what follows from it."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "exhibit"}
        derived = {"fired": self.fired, "outcome": self.outcome}
        if self.kind == "honest":
            return {"name": self.exhibit, "flagged": self.wrong, **own, **derived}
        by = DOOR if self.refused else "checks"
        return {"name": self.exhibit, "caught": not self.wrong, "by": by, **own, **derived}


@dataclass(frozen=True, slots=True)
class BrokenAttack:
    """What was found of one attack with a deliberate fault.

    Attributes:
        fault: what is wrong with it; "" for the same attack without a fault.
        expected: the tests that must see it.
        caught_by: whether each test saw it, by name of the test.
    """

    fault: str
    expected: tuple[str, ...]
    caught_by: Mapping[str, bool]

    @property
    def wrong(self) -> bool:
        """Whether a test that should have seen it did not, or one saw a fault in an attack without any."""
        if not self.fault:
            return any(self.caught_by.values())
        return not all(self.caught_by[name] for name in self.expected)


@dataclass(frozen=True, slots=True)
class MuseumReport:
    """One visit of the museum.

    Attributes:
        findings: of the networks.
        attacks: of the broken attacks.
        threat: what was measured, e.g. "l2 0.5".
        seconds: CPU time.
    """

    findings: tuple[Finding, ...]
    attacks: tuple[BrokenAttack, ...]
    threat: str
    seconds: float = 0.0

    @property
    def checks(self) -> tuple[str, ...]:
        """Every check that was assessed on at least one exhibit, in their own order, `DOOR` first."""
        names = dict.fromkeys(name for f in self.findings for name in f.verdicts)
        known = {name for f in self.findings for name, verdict in f.verdicts.items() if verdict in ("pass", FAIL)}
        return (DOOR, *(name for name in names if name in known))

    @property
    def tests(self) -> tuple[str, ...]:
        """Every test that the attacks were put to."""
        return tuple(dict.fromkeys(name for a in self.attacks for name in a.caught_by))

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the exhibits and faults on which the release gate fails."""
        attacks = (a.fault or "the attack without a fault" for a in self.attacks if a.wrong)
        return (*(f.exhibit for f in self.findings if f.wrong), *attacks)

    def of_kind(self, kind: Kind) -> tuple[Finding, ...]:
        """Return the findings of one kind that were not skipped."""
        return tuple(f for f in self.findings if f.kind == kind and not f.skipped)

    def summary_line(self) -> str:
        """Return the counts in one line: fakes seen, weak ones measured, honest ones left alone, attacks caught."""
        fakes, weak, honest = (self.of_kind(kind) for kind in GROUPS)
        faults = [a for a in self.attacks if a.fault]
        return (
            f"fakes seen: {sum(not f.wrong for f in fakes)} of {len(fakes)}, "
            f"weak defenses measured: {sum(not f.wrong for f in weak)} of {len(weak)}, "
            f"honest networks flagged: {sum(f.wrong for f in honest)} of {len(honest)}, "
            f"broken attacks caught: {sum(not a.wrong for a in faults)} of {len(faults)}"
        )

    def record(self) -> dict[str, object]:
        """Return the report as plain data."""
        groups = {group: [f.record() for f in self.findings if f.kind == kind] for kind, group in GROUPS.items()}
        head = {"threat": self.threat, "seconds": self.seconds, "summary": self.summary_line()}
        return {**head, **groups, "attacks": [asdict(a) | {"caught": not a.wrong} for a in self.attacks]}


def read_report(path: Path = STORED) -> MuseumReport:
    """Return a report that was stored as JSON; by default the one that is shipped with this version.

    Args:
        path: a file that `python -m bench doctor --museum --save FILE` wrote.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    findings = tuple(_finding(record) for group in GROUPS.values() for record in data[group])
    attacks = tuple(BrokenAttack(a["fault"], tuple(a["expected"]), a["caught_by"]) for a in data["attacks"])
    return MuseumReport(findings, attacks, data["threat"], data["seconds"])


def _finding(record: Mapping[str, Any]) -> Finding:
    own = {f.name: record[f.name] for f in fields(Finding) if f.name != "exhibit"}
    return Finding(exhibit=record["name"], **own | {"expected": tuple(record["expected"])})
