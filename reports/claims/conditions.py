"""Kinds of conditions over images: the quantity of each with its interval, the range that it claims, the n it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from bench.core.stats.intervals import ALPHA
from bench.reports.board.estimates import Estimate, Estimates

Facts: TypeAlias = Mapping[str, Any]  # one table of claims.toml
Range: TypeAlias = tuple[float, float]
Measure: TypeAlias = Callable[[Estimates, Facts, int, float], Estimate | None]
PAPER = "_paper"  # behind the name of a column that estimates as the paper does
_TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True)
class Kind:
    """One kind of condition.

    Attributes:
        words: the condition in words, with the names of its facts in braces.
        measure: (estimates, facts, seed, alpha) to the quantity with its interval of confidence 1 − alpha.
        claimed: facts to the range in which the quantity must lie.
        one_sided: whether only one end of the range can be missed by a small difference, so that the interval has
            alpha on either side.
    """

    words: str
    measure: Measure
    claimed: Callable[[Facts], Range]
    one_sided: bool = False


def _difference(measured: Estimates, facts: Facts, seed: int, alpha: float) -> Estimate | None:
    return measured.difference(facts["left"], facts["right"], seed, facts["column"], alpha)


def _ratio(measured: Estimates, facts: Facts, seed: int, alpha: float) -> Estimate | None:
    return measured.ratio(facts["right"], facts["left"], seed, facts["column"], alpha)


def _discrepancy(measured: Estimates, facts: Facts, seed: int, alpha: float) -> Estimate | None:
    return measured.discrepancy(facts["left"], seed, facts["column"], alpha)


def _reserve(measured: Estimates, facts: Facts, seed: int, alpha: float) -> Estimate | None:
    """Return Δ(than) / factor − |Δ(column)|; each Δ has half of the error, so that the interval is conservative."""
    own = measured.discrepancy(facts["left"], seed, facts["column"], alpha / 2)
    than = measured.discrepancy(facts["left"], seed, facts["than"], alpha / 2)
    if own is None or than is None:
        return None
    ends = abs(own.low), abs(own.high)
    least = 0.0 if own.low <= 0 <= own.high else min(ends)
    factor = facts["factor"]
    value, low, high = than.value / factor - abs(own.value), than.low / factor - max(ends), than.high / factor - least
    return Estimate(value, low, high, min(own.n, than.n))


KINDS: Mapping[str, Kind] = {
    "lower": Kind("{column} of {left} < {column} of {right}", _difference, lambda _: (-np.inf, -_TINY)),
    "higher": Kind("{column} of {left} > {column} of {right}", _difference, lambda _: (_TINY, np.inf)),
    "not_worse": Kind(
        "{column} of {left} not lower than that of {right} by more than {margin:g}",
        _difference,
        lambda facts: (-facts["margin"], np.inf),
        one_sided=True,
    ),
    "times_lower": Kind(
        "{column} of {left} at least {factor:g} times lower than that of {right}",
        _ratio,
        lambda facts: (facts["factor"], np.inf),
    ),
    "grows": Kind(
        "Δ of {column} of {left} ≥ {bound:g}, Δ = (test − train)/train",
        _discrepancy,
        lambda facts: (facts["bound"], np.inf),
    ),
    "grows_less": Kind(
        "Δ of {than} / {factor:g} − |Δ of {column}| of {left} ≥ 0, Δ = (test − train)/train",
        _reserve,
        lambda _: (0.0, np.inf),
    ),
}


@dataclass(frozen=True)
class Decision:
    """One condition on one seed.

    Attributes:
        holds: True if the whole interval satisfies the condition, False if the whole interval fails it, else None.
        estimate: the quantity with its interval.
        needed: the smallest number of images that would decide it: at the published difference, where there is one,
            and the measured spread; None where the two lie on the very border.
    """

    holds: bool | None
    estimate: Estimate
    needed: int | None


def decide(
    measured: Estimates, facts: Facts, seed: int, alpha: float = ALPHA, tables: Sequence[Facts] = ()
) -> Decision | None:
    """Decide one condition on one seed from its interval.

    Args:
        measured: what a board measured.
        facts: the condition, of one of `KINDS`.
        seed: the training seed.
        alpha: one minus the confidence, after correction for the claim's other conditions.
        tables: the published ones on these data.

    Returns:
        The decision; None where the quantity was not measured.
    """
    kind = KINDS[facts["kind"]]
    found = kind.measure(measured, facts, seed, 2 * alpha if kind.one_sided else alpha)
    if found is None:
        return None
    lowest, highest = kind.claimed(facts)
    inside, outside = lowest <= found.low and found.high <= highest, found.high < lowest or found.low > highest
    target = published(measured, facts, seed, tables)
    needed = images_needed(found, (lowest, highest), found.value if target is None else target)
    return Decision(True if inside else False if outside else None, found, needed)


def images_needed(found: Estimate, claimed: Range, target: float) -> int | None:
    """Return the images at which an interval around the target would lie on one side of the claimed range.

    The interval is that found, its halves shrinking with the root of the images.

    Args:
        found: the quantity as measured.
        claimed: the range.
        target: the quantity's assumed true value.
    """
    lowest, highest = claimed
    below, above = found.value - found.low, found.high - found.value
    if lowest <= target <= highest:
        needs = [below / (target - lowest) if target > lowest else np.inf] if np.isfinite(lowest) else []
        needs += [above / (highest - target) if target < highest else np.inf] if np.isfinite(highest) else []
        share = max(needs)
    else:
        share = above / (lowest - target) if target < lowest else below / (target - highest)
    images = found.n * share * share
    return math.ceil(images) or 1 if math.isfinite(images) else None


def published(measured: Estimates, facts: Facts, seed: int, tables: Sequence[Facts]) -> float | None:
    """Return the published value of a condition's quantity; None where the paper prints none.

    A difference of numbers that are no fractions is taken relative to the right side, and then of our right side: the
    paper's unit is not ours.

    Args:
        measured: what a board measured.
        facts: the condition.
        seed: the training seed.
        tables: the published ones on these data.
    """
    kind = facts["kind"]
    means = [t for t in tables if "kind" not in t]
    growth = [t for t in tables if t.get("kind") == "discrepancy"]
    if kind in ("grows", "grows_less"):
        own = _entry(growth, facts["left"], facts["column"])
        than = _entry(growth, facts["left"], facts.get("than", ""))
        return own if kind == "grows" else None if own is None or than is None else than / facts["factor"] - abs(own)
    left, right = (_entry(means, facts[side], facts["column"]) for side in ("left", "right"))
    if left is None or right is None:
        return None
    if kind == "times_lower":
        return right / left
    if measured.is_flag(facts["column"]):
        return left - right
    return (left / right - 1) * float(measured.values(facts["right"], seed, facts["column"]).mean())


def _entry(tables: Sequence[Facts], defense: str, column: str) -> float | None:
    """Return a published mean in the unit of our column."""
    for table in tables:
        for name, scale, entry in zip(table["columns"], table["scale"], table["rows"].get(defense, ()), strict=False):
            if name in (column, column + PAPER):
                return float(entry[0]) / float(scale)
    return None
