"""What a verification found: what does not hold, what could not be checked, and how much was."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

CELL_DIGITS: Final = 12


@dataclass(frozen=True)
class Finding:
    """Something that does not hold.

    Attributes:
        where: the cell, file or row.
        problem: what was expected, and what was found.
        index: place of the image in the test set; None: it is about no single image.
    """

    where: str
    problem: str
    index: int | None = None

    def __str__(self) -> str:
        image = "" if self.index is None else f", image {self.index}"
        return f"{self.where}{image}: {self.problem}"


@dataclass
class Verification:
    """The state of a verification; every check adds to it.

    Attributes:
        findings: what does not hold.
        notes: what could not be checked, or a reader must know.
        examples: adversarial examples that were scored again.
        close: of these, those whose decision is within rounding on this machine.
        left_out: adversarial examples that did not travel with the folder.
        models: models that were loaded.
        stayed: models whose weights did not travel with a pack that holds others': nothing of them is proved.
        cells: cells whose hashes and links were checked.
        proved: flags "broken" of which a stored adversarial example holds.
        unproved: name of a column of flags to how many of its flags "broken" no stored example proves.
        images: place in the test set to SHA-256 of the clean image, as far as seen.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: int = 0
    close: int = 0
    left_out: int = 0
    models: int = 0
    stayed: int = 0
    cells: int = 0
    proved: int = 0
    unproved: Counter[str] = field(default_factory=Counter)
    images: dict[int, str] = field(default_factory=dict)

    def fail(self, where: str, problem: str, index: int | None = None) -> None:
        """Note something that does not hold; what is noted already is not noted twice.

        Args:
            where: the cell, file or row.
            problem: what was expected, and what was found.
            index: place of the image in the test set.
        """
        finding = Finding(where, problem, index)
        if index is not None or finding not in self.findings:
            self.findings.append(finding)

    def add(self, other: Verification) -> None:
        """Add what another process has found of further runs.

        Args:
            other: its verification.
        """
        self.findings += other.findings
        self.notes += other.notes
        self.unproved += other.unproved
        for name in ("examples", "close", "left_out", "models", "stayed", "cells", "proved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for index, sha in other.images.items():
            if self.images.setdefault(index, sha) != sha:
                self.fail("stored images", "expected the clean image that is stored elsewhere, got another", index)

    def has(self, problem: str) -> bool:
        """Tell whether a problem is noted, wherever it was found."""
        return any(finding.problem == problem for finding in self.findings)


def named(label: str, evaluation: str, cell: str) -> str:
    """Return how a cell is named in findings, e.g. "lcnn seed 0: pgd_l2 (cell 0123456789ab)".

    Args:
        label: of the run.
        evaluation: key of the evaluation, or "train".
        cell: its id.
    """
    return f"{label}: {evaluation} (cell {cell[:CELL_DIGITS]})"
