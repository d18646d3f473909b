"""Hand-made evidence: an honest model on 64 images, of which a test changes what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bench.core.records import Column, ThreatModel
from bench.trust.columns import NUMBERS
from bench.trust.evidence import Evidence, Measured

N = 64
INDEX = np.arange(100, 100 + N)  # places in the data set, not 0, 1, …
THREAT = ThreatModel("l2", 0.5)
AT = {"norm": "l2", "eps": 0.5}
LEFT = 24  # survivors: the first ones; as many as a share of 37.5 %
FACTORS = {"0.25": 48, "0.5": 36, "1": LEFT, "2": 6, "4": 0}


def first(count, n=N):
    """Return 1 for the first images, 0 for the rest."""
    return (np.arange(n) < count).astype(float)


def survivors_only(values):
    """Return values with NaN where the image did not survive."""
    return np.where(first(LEFT) == 1, values, np.nan)


def honest() -> dict[str, np.ndarray]:
    """Return the numbers of a model that nothing can be said against."""
    numbers = dict.fromkeys(NUMBERS, np.zeros(N))
    searched = ("a2_late", "a3_", "v5_elsewhere")
    numbers |= {name: survivors_only(np.zeros(N)) for name in NUMBERS if name.startswith(searched)}
    numbers |= {"t1_features": np.full(N, 32.0), "r3_agreement": np.full(N, 0.95)}
    numbers |= {f"e1_robust_{f}": first(k) for f, k in FACTORS.items()}
    numbers |= {"g3_error": np.full(N, 0.01), "g3_error_in_ball": np.full(N, 0.01), "v5_margin": np.linspace(1, 9, N)}
    numbers |= {"survivor": first(LEFT), "g4_ce_robust": first(LEFT + 1), "g4_margin_robust": first(LEFT)}
    numbers |= {"g6_stationarity": survivors_only(np.full(N, 0.01)), "t1_found": np.ones(N)}
    return numbers | {"v6_holds": np.where(first(LEFT) == 1, np.nan, 1.0)}


def rows() -> list[Measured]:
    """Return what the other evaluations of the row hold."""
    stages = ["" if left else "apgd-ce" for left in first(LEFT)]
    return [
        column("clean", np.ones(N, bool)),
        column("margin", np.linspace(1, 9, N)),
        column("robust", first(48).astype(bool), norm="l2", eps=0.25, attack="pgd"),
        column("robust", first(LEFT).astype(bool), ranks=2, **AT, attack="autoattack"),
        column("broken_by", np.array(stages, object), **AT, attack="autoattack"),
        column("distance", np.where(first(LEFT) == 1, np.nan, 0.4), **AT, attack="autoattack"),
        column("refused", np.zeros(N, bool), **AT, attack="autoattack"),
        column("transfer", first(LEFT + 8).astype(bool), **AT),
        column("certified", np.full(N, 0.01), norm="l2"),
    ]


def column(role, values, *, ranks=0, index=INDEX, **params) -> Measured:
    """Return a column of a role, measured at these params."""
    return Measured(index[: len(values)], values, Column("A number.", role=role, params=params, ranks=ranks))


def evidence(numbers: Mapping[str, np.ndarray] | None = None, others: list[Measured] | None = None, **rest) -> Evidence:
    """Return evidence of an honest model but for the numbers given; None as a number: not measured."""
    merged = honest() | dict(numbers or {})
    own = [column("trust", v, norm="l2", number=name, check="") for name, v in merged.items() if v is not None]
    facts = {"weights": "a" * 64, "data": "b" * 64}
    found = Evidence(THREAT, (*own, *(rows() if others is None else others)), facts=facts, others=3, adaptive=True)
    return replace(found, twin=found, **rest) if "twin" not in rest else replace(found, **rest)


def without(role: str) -> list[Measured]:
    """Return what the other evaluations hold, but for the columns of a role."""
    return [c for c in rows() if c.facts.role != role]


def with_(changed: Measured) -> list[Measured]:
    """Return what the other evaluations hold, with the columns of one role at its radius replaced."""
    same = [
        c.facts.role == changed.facts.role and c.facts.params.get("eps") == changed.facts.params.get("eps")
        for c in rows()
    ]
    return [changed if hit else c for c, hit in zip(rows(), same, strict=True)]
