"""From numbers to a finding: shares against a threshold, with the images that they cost."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import bdtrc

from bench.trust.evidence import Measured
from bench.trust.records import Finding

MIN_IMAGES: Final = 20  # fewer cannot pass: what is looked for would hardly appear among them
LEVEL: Final = 0.05  # of the exact test behind every share
NOT_RUN: Final = "the trust evaluation was not run"


def missing(why: str) -> Finding:
    """Return "not assessable" for a reason: what is absent, in words."""
    return Finding("not assessable", why)


def exceeds(k: int, n: int, share: float) -> bool:
    """Return whether k of n is significantly more than a share: P(Bin(n, share) ≥ k) < 5 %, exact and one-sided.

    With 64 images and a share of 0.5 % one image is not, two are.

    Args:
        k: images concerned, 0 ≤ k ≤ n.
        n: images looked at.
        share: the largest share allowed, in [0, 1).
    """
    return k > 0 and float(bdtrc(k - 1, n, share)) < LEVEL


def share_finding(
    images: np.ndarray,
    n: int,
    threshold: float,
    words: str,
    *,
    so: str = "",
    lacks: str = "",
    min_images: int = MIN_IMAGES,
) -> Finding:
    """Return whether the share of images concerned stays within a threshold.

    Args:
        images: places of the images concerned, (k,).
        n: images looked at.
        threshold: largest share allowed.
        words: a sentence with {k}, {n} and {share}.
        so: what a fail means, added to it.
        lacks: why a pass would mean nothing, in words; "" if it means something.
        min_images: images below which there is no pass.

    Returns:
        "fail" if k of n is significantly more than the threshold, "pass" if not; "not assessable" if it is not but
        there are fewer than `min_images`, or something lacks.
    """
    if not n:
        return missing("no image was measured")
    k, share = len(images), len(images) / n
    text = words.format(k=k, n=n, share=f"{100 * share:.2g} %")
    concerned = tuple(int(i) for i in images)
    if exceeds(k, n, threshold):
        return Finding("fail", f"{text}: {so}" if so else text, share, threshold, concerned)
    if n < min_images:
        lacks = lacks or f"at least {min_images} are needed"
    if lacks:
        return Finding("not assessable", f"{text}, but {lacks}", share, threshold, concerned)
    return Finding("pass", text, share, threshold, concerned)


def gravest(first: Finding, *others: Finding) -> Finding:
    """Return the gravest of several findings, the first of equals: fail, then not assessable, then pass."""
    order = ("fail", "not assessable", "pass")
    return min((first, *others), key=lambda finding: order.index(finding.verdict))


def flagged(column: Measured | None, threshold: float, words: str, *, so: str = "") -> Finding:
    """Return whether the share of images with a flag stays within a threshold; arguments as for `share_finding`.

    Args:
        column: flags; None: not measured.
        threshold: largest share allowed.
        words: a sentence with {k}, {n} and {share}.
        so: what a fail means.
    """
    if column is None:
        return missing(NOT_RUN)
    index, values = column.known()
    return share_finding(index[values != 0], len(index), threshold, words, so=so)


def largest(column: Measured | None, threshold: float, words: str) -> Finding:
    """Return whether the largest number of a column stays within a threshold.

    Args:
        column: numbers; None: not measured.
        threshold: largest number allowed.
        words: a sentence with {value} and {k}, the images above the threshold.
    """
    if column is None:
        return missing(NOT_RUN)
    index, values = column.known()
    if not len(values):
        return missing("no image was measured")
    over, worst = index[values > threshold], float(values.max())
    text = words.format(value=f"{worst:.2g}", k=len(over))
    return Finding("fail" if len(over) else "pass", text, worst, threshold, tuple(int(i) for i in over))
