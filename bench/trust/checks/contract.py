"""V1-V5: the model is one function, which an evaluation leaves as it was and which gives finite answers."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, flagged, gravest, largest, missing

PROTOCOL: Final = "docs/trust.md"
REPEATS: Final = 1e-4  # relative difference of logits between two calls
BATCHES: Final = 1e-3  # and between batches, or processes


@check("V1", title="an evaluation leaves the model as it was", severity="validity", source=PROTOCOL)
def unchanged(evidence: Evidence) -> Finding:
    """Fail if a forward pass in eval mode changed weights, buffers or modes."""
    words = "a forward pass changed weights, buffers or modes on {k} of {n} images"
    return flagged(evidence.number("v1_state_changed"), 0.0, words)


@check("V2", title="nothing is NaN or infinite", severity="validity", source=PROTOCOL)
def finite(evidence: Evidence) -> Finding:
    """Fail if a logit or a gradient is not finite anywhere the probes looked."""
    words = "logits or gradients are NaN or infinite in the ball of {k} of {n} images"
    return flagged(evidence.number("v2_not_finite"), 0.0, words)


@check("V3", title="the same answer every time", severity="validity", source=PROTOCOL, tracks=("deterministic",))
def deterministic(evidence: Evidence) -> Finding:
    """Fail if five calls differ by more than 1e-4 of the logits, or in a prediction (stored as at least 1)."""
    words = "five calls of the model differ by {value} of its logits at most"
    return largest(evidence.number("v3_repeat_difference"), REPEATS, words)


@check("V4", title="no dependence on the batch", severity="validity", source=PROTOCOL, tracks=("deterministic",))
def batch_independent(evidence: Evidence) -> Finding:
    """Fail if an image alone, or in another order, has other logits by more than 1e-3."""
    words = "alone or in another order an image's logits differ by {value} at most"
    return largest(evidence.number("v4_batch_difference"), BATCHES, words)


@check("V5", title="the same answer before, after and elsewhere", severity="validity", source=PROTOCOL)
def remembers_nothing(evidence: Evidence) -> Finding:
    """Fail if logits differ after all probes, or the margin from that of the accuracy evaluation, by more than 1e-3.

    In a suite the accuracy is another cell, often computed in another process, from weights read anew.

    Returns:
        The graver of the two findings.
    """
    words = "logits before and after the probes differ by {value} at most"
    after = largest(evidence.number("v5_after_difference"), BATCHES, words)
    copy = evidence.number("v5_elsewhere_difference")
    if copy is not None and len(copy.known()[0]):
        words = "where attacks ended, a copy of the model that has seen no image answers otherwise by {value} at most"
        after = gravest(largest(copy, BATCHES, words), after)
    own, other = evidence.number("v5_margin"), next(evidence.of_role("margin"), None)
    if own is None:
        return missing(NOT_RUN)
    if other is None:
        return gravest(after, missing("accuracy was not evaluated, whose margins are compared"))
    index, margin = own.known()
    elsewhere = dict(zip(*(values.tolist() for values in other.known()), strict=True))
    there = np.array([elsewhere.get(i, np.nan) for i in index.tolist()])
    scale = max(float(np.nanmedian(np.abs(margin))) if len(margin) else 0.0, 1e-30)
    off = np.abs(margin - there) / np.maximum(np.abs(margin), scale)
    worst = float(np.nanmax(off)) if np.isfinite(off).any() else 0.0
    text = f"margins of the accuracy evaluation and of this one differ by {worst:.2g} at most"
    images = tuple(int(i) for i in index[off > BATCHES])
    return gravest(after, Finding("fail" if images else "pass", text, worst, BATCHES, images))
