"""What a check may read: per-example columns of one model with what they are, and facts about it as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.core.records import Column, Role, ThreatModel, Track


@dataclass(frozen=True, slots=True)
class Measured:
    """One column of one model.

    Attributes:
        index: places of its images in the data set, (n,).
        values: (n,): flags, numbers (NaN: missing) or texts.
        facts: what the column is.
    """

    index: np.ndarray
    values: Any
    facts: Column

    @property
    def numbers(self) -> np.ndarray:
        """The values as float64, (n,); flags become 0 and 1, whatever is missing NaN."""
        if isinstance(self.values, np.ndarray) and self.values.dtype != object:
            return self.values.astype("float64")
        to_numpy = getattr(self.values, "to_numpy", None)
        if to_numpy is not None:
            return np.asarray(to_numpy(dtype="float64", na_value=np.nan))
        return np.asarray([np.nan if v is None else v for v in self.values], dtype="float64")

    @property
    def texts(self) -> list[str]:
        """The values as texts, "" where missing."""
        return [v if isinstance(v, str) else "" for v in self.values]

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places (m,) and numbers (m,) of the images that have one."""
        numbers = self.numbers
        there = ~np.isnan(numbers)
        return self.index[there], numbers[there]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one model: one defense and seed, or one that was handed over.

    Attributes:
        threat: norm and radius that the robust accuracy is claimed at.
        columns: per-example columns, in any order.
        facts: plain data about the model as a whole: the trust evaluation's summary, and from a store `weights` and
            `data`, the SHA-256 that were checked when they were read.
        twin: the undefended model of the same board; None where there is none.
        others: number of other rows whose adversarial examples were tried on this one.
        adaptive: whether the defense's author declared an attack on it.
        in_memory: a model handed over, without other rows, stored files or a certificate.
        track: of the model.
    """

    threat: ThreatModel
    columns: tuple[Measured, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    twin: Evidence | None = None
    others: int = 0
    adaptive: bool = False
    in_memory: bool = False
    track: Track = "deterministic"

    def number(self, name: str) -> Measured | None:
        """Return the trust evaluation's column of this name at the threat's norm, None where it was not measured.

        Args:
            name: without the evaluation's name in front, e.g. "g3_error".
        """
        for c in self.columns:
            params = c.facts.params
            if c.facts.role == "trust" and params.get("number") == name and params.get("norm") == self.threat.norm:
                return c
        return None

    def of_role(self, role: Role, **params: float | str) -> Iterator[Measured]:
        """Yield the columns of a role with these params, e.g. norm, eps or attack.

        Args:
            role: what the columns are for.
            params: what they were measured at.
        """
        for c in self.columns:
            if c.facts.role == role and all(c.facts.params.get(k) == v for k, v in params.items()):
                yield c

    def at_threat(self, role: Role, **params: float | str) -> Iterator[Measured]:
        """Yield the columns of a role at the threat, with these further params."""
        return self.of_role(role, norm=self.threat.norm, eps=self.threat.eps, **params)

    def robust(self) -> Measured | None:
        """Return the robust flags at the threat, of the attack that ranks highest; None without any."""
        found = list(self.at_threat("robust"))
        return max(found, key=lambda c: c.facts.ranks, default=None)
