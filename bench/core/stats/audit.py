"""Risk-limiting audit: test, without replacement, that few of the images counted robust can be broken.

N images are counted robust; D of them would be broken by the auditor's fixed attack. The null hypothesis is D ≥ D0 with
D0 = ceil(margin·N). Images are attacked in a random order; after t of them, s were broken. The test statistic is a
hypergeometric mixture martingale, a function of (t, s) alone:

    M(t, s) = Σ_{d=s}^{D0−1} w_d L(d) / L(D0),   L(d) = C(N−t, d−s) / C(N, d),   w_d = 2 (D0 − d) / (D0 (D0 + 1))

Under every D ≥ D0 it is a supermartingale that starts at 1, so P(it ever reaches 1/risk) ≤ risk (Ville's inequality),
whenever the audit stops. It is a betting martingale (Waudby-Smith and Ramdas 2024; ALPHA: Stark 2023). The
claim "D < D0" is confirmed when M ≥ 1/risk, refuted when s ≥ D0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import numpy as np
from scipy.special import gammaln

Outcome = Literal["confirmed", "refuted", "undecided"]

ROUNDING: Final = 1e-6  # of a logarithm; its sums are exact to 1e-9 up to a million images. Closer calls use integers.
FULL_COUNT_SHARE: Final = Fraction(7, 10)  # an audit that needs more than this share may as well attack all images


@dataclass(frozen=True, slots=True)
class AuditRule:
    """The claim under audit, and the decision rule that follows from it.

    Attributes:
        images: N, images counted robust, ≥ 1.
        margin: share of them that may be broken, exact; margin·N must be at least 1.
        risk: largest probability of confirming a false claim, in (0, 1), exact.
    """

    images: int
    margin: Fraction
    risk: Fraction

    def __post_init__(self) -> None:
        """Refuse a claim that cannot be audited.

        Raises:
            ValueError: no image, a risk outside (0, 1), or a margin below one image or above all of them.
        """
        if self.images < 1:
            raise ValueError(f"audit: expected at least one image counted robust, got {self.images}. Nothing to audit.")
        if not 0 < self.risk < 1:
            raise ValueError(f"audit: expected a risk between 0 and 1, got {self.risk}. Use 0.05.")
        if not 0 < self.margin <= 1 or self.margin * self.images < 1:
            raise ValueError(
                f"audit: expected a margin of at least one image, 1/{self.images}, and at most 1, got "
                f"{float(self.margin):g}. Use a larger margin or more images."
            )

    @property
    def boundary(self) -> int:
        """D0 = ceil(margin·N): the claim is that fewer images than this can be broken."""
        return math.ceil(self.margin * self.images)

    def martingale(self, draws: int, hits: int) -> Fraction | None:
        """Return M(draws, hits) exactly; None where the null hypothesis has become impossible (M = ∞).

        Args:
            draws: t, images attacked so far.
            hits: s, images broken so far, ≤ draws.
        """
        return _martingale(self.images, self.boundary, draws, hits)

    def confirms(self, draws: int, hits: int) -> bool:
        """Return whether M(draws, hits) ≥ 1/risk, decided exactly."""
        return _reaches(self.images, self.boundary, draws, hits, 1 / self.risk)

    def threshold(self, hits: int, low: int = 1) -> int:
        """Return b[hits], the first draw at which the claim is confirmed with so many hits.

        M rises in t for a fixed s, so it is found by bisection.

        Args:
            hits: s, below D0.
            low: no smaller draw is considered.
        """
        low, high = max(low, hits), self.images
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.confirms(middle, hits) else (middle + 1, high)
        return low

    def thresholds(self, count: int | None = None) -> tuple[int, ...]:
        """Return b[0], b[1], …, non-decreasing because M falls in s.

        Args:
            count: so many of them; None: all D0.
        """
        found = [1]
        for hits in range(self.boundary if count is None else min(count, self.boundary)):
            found.append(self.threshold(hits, found[-1]))
        return tuple(found[1:])

    def needs_a_full_count(self) -> bool:
        """Return whether even a clean audit must attack most images, so that all should be attacked instead."""
        return self.threshold(0) > FULL_COUNT_SHARE * self.images


def conclude(rule: AuditRule, draws: int, hit_at: Sequence[int]) -> Outcome:
    """Return what an audit concludes; once confirmed it stays so, unless as many images as were claimed not to fall do.

    Args:
        rule: the claim.
        draws: images attacked.
        hit_at: numbers of the draws (1, 2, …, ascending) whose image was broken.
    """
    if len(hit_at) >= rule.boundary:
        return "refuted"
    return "confirmed" if any(rule.confirms(t, s) for t, s in _peaks(draws, hit_at)) else "undecided"


def anytime_p(rule: AuditRule, draws: int, hit_at: Sequence[int]) -> float:
    """Return the anytime-valid p-value of "the claim is false": min(1, 1 / largest M on the path).

    Args:
        rule: the claim.
        draws: images attacked.
        hit_at: numbers of the draws (1, 2, …, ascending) whose image was broken.
    """
    values = [rule.martingale(t, s) for t, s in _peaks(draws, hit_at)]
    largest = max((m for m in values if m is not None), default=Fraction(1))
    return 0.0 if None in values else float(1 / max(Fraction(1), largest))


def upper_limit(images: int, risk: Fraction, draws: int, hit_at: Sequence[int]) -> int:
    """Return the anytime upper limit U: with confidence 1 − risk, at most U of the images fall to the attack.

    U is the largest D0 that the path has not rejected, M_{D0}(t, s) < 1/risk, minimised over the path, and at least the
    number of images seen broken; valid at any stopping time, whatever the margin under audit was.

    Args:
        images: N.
        risk: one minus the confidence.
        draws: images attacked.
        hit_at: numbers of the draws (1, 2, …, ascending) whose image was broken.
    """
    limit = min(_largest_kept(images, t, s, 1 / risk) for t, s in _peaks(draws, hit_at))
    return max(limit, len(hit_at))


def audit_order(seed: int, indices: Iterable[int]) -> list[int]:
    """Return image indices in the order of SHA-256(f"{seed}:{index}"), which anyone can recompute from the seed."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())


def _peaks(draws: int, hit_at: Sequence[int]) -> list[tuple[int, int]]:
    """Return the states (t, s) just before each hit and at the end: M is largest there, since it rises between hits."""
    return [*((t - 1, s) for s, t in enumerate(hit_at)), (draws, len(hit_at))]


def _martingale(images: int, boundary: int, draws: int, hits: int) -> Fraction | None:
    """Return M in integers: L(d) ∝ d^(s) · (N − d)^(t − s), falling factorials; None for infinity."""
    if boundary - hits > images - draws:
        return None
    if hits >= boundary:
        return Fraction(0)
    misses = draws - hits
    total = sum(2 * (boundary - d) * math.perm(d, hits) * math.perm(images - d, misses) for d in range(hits, boundary))
    return Fraction(total, boundary * (boundary + 1) * math.perm(boundary, hits) * math.perm(images - boundary, misses))


def _log_likelihood(images: int, draws: int, hits: int, d: np.ndarray) -> np.ndarray:
    """Return log(d^(s) · (N − d)^(t − s)) at each d (k,), s ≤ d ≤ N − (t − s)."""
    misses = draws - hits
    return gammaln(d + 1) - gammaln(d - hits + 1) + gammaln(images - d + 1) - gammaln(images - d - misses + 1)


def _reaches(images: int, boundary: int, draws: int, hits: int, level: Fraction) -> bool:
    """Return whether M ≥ level: by logarithms, and by integers where these are too close to call."""
    if boundary - hits > images - draws:
        return True
    if hits >= boundary:
        return False
    d = np.arange(hits, boundary + 1)
    log_l = _log_likelihood(images, draws, hits, d)
    weights = np.log(2.0 * (boundary - d[:-1])) - math.log(boundary * (boundary + 1))
    gap = float(np.logaddexp.reduce(weights + log_l[:-1]) - log_l[-1]) - math.log(level)
    if abs(gap) > ROUNDING:
        return gap > 0
    exact = _martingale(images, boundary, draws, hits)
    return exact is None or exact >= level


def _largest_kept(images: int, draws: int, hits: int, level: Fraction) -> int:
    """Return the largest D0 with M_{D0}(draws, hits) < level; at least `hits`, whose images are broken.

    All D0 at once: Σ_{d<n} (n − d) L(d) is the twofold running sum of L.
    """
    d = np.arange(hits, images - (draws - hits) + 1)
    log_l = _log_likelihood(images, draws, hits, d)
    twice = np.logaddexp.accumulate(np.logaddexp.accumulate(log_l))[:-1]  # at n = d + 1
    n = d[1:]
    gap = math.log(2) + twice - np.log(n) - np.log(n + 1.0) - log_l[1:] - math.log(level)
    for position in np.flatnonzero(gap < ROUNDING)[::-1]:
        if gap[position] < -ROUNDING or not _reaches(images, int(n[position]), draws, hits, level):
            return int(n[position])
    return hits
