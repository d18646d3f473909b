"""V2-V4: the model answers with finite logits, the same every time, and whatever else is in the batch."""

from __future__ import annotations

from typing import Final

from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import flagged, largest

PROTOCOL: Final = "docs/trust.md"
REPEATS: Final = 1e-4  # relative difference of logits between two calls
BATCHES: Final = 1e-3  # and between batches


@check("V2", title="nothing is NaN or infinite", severity="validity", source=PROTOCOL)
def finite(evidence: Evidence) -> Finding:
    """Fail if a logit or a gradient is not finite anywhere the probes looked."""
    words = "logits or gradients are NaN or infinite in the ball of {k} of {n} images"
    return flagged(evidence.number("v2_not_finite"), 0.0, words)


@check("V3", title="the same answer every time", severity="validity", source=PROTOCOL)
def deterministic(evidence: Evidence) -> Finding:
    """Fail if five calls differ by more than 1e-4 of the logits, or in a prediction (stored as infinity)."""
    words = "five calls of the model differ by {value} of its logits at most"
    return largest(evidence.number("v3_repeat_difference"), REPEATS, words)


@check("V4", title="no dependence on the batch", severity="validity", source=PROTOCOL)
def batch_independent(evidence: Evidence) -> Finding:
    """Fail if an image alone, or in another order, has other logits by more than 1e-3."""
    words = "alone or in another order an image's logits differ by {value} at most"
    return largest(evidence.number("v4_batch_difference"), BATCHES, words)
