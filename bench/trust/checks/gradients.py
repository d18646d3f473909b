"""G1-G3: the gradients that attacks follow exist, and are those of the function."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import MIN_IMAGES, flagged, missing

ATHALYE: Final = "Athalye, Carlini, Wagner 2018, section 3"
ZERO_MARGIN: Final = 0.001
ZERO_CE: Final = 0.01
WRONG_GRADIENT: Final = 0.10


@check("G1", title="margin has a gradient", severity="adequacy", source=ATHALYE)
def margin_gradient(evidence: Evidence) -> Finding:
    """Fail if the gradient of the margin is exactly zero at more than 0.1 % of images."""
    words = "the gradient of the margin is zero on {k} of {n} images: attacks have nothing to follow"
    return flagged(evidence.number("g1_zero_margin_gradient"), ZERO_MARGIN, words)


@check("G2", title="cross-entropy has a gradient", severity="soft", source="Carlini and Wagner 2017, section IV")
def cross_entropy_gradient(evidence: Evidence) -> Finding:
    """Fail if the gradient of cross-entropy is exactly zero at more than 1 % of images."""
    words = "the gradient of cross-entropy is zero on {k} of {n} images: attacks on it stand still"
    return flagged(evidence.number("g2_zero_ce_gradient"), ZERO_CE, words)


@check("G3", title="gradient agrees with differences of the function", severity="adequacy", source=ATHALYE)
def gradient_agrees(evidence: Evidence) -> Finding:
    """Fail if the median relative error of the gradient against a central difference along it exceeds 0.10."""
    columns = [evidence.number("g3_error"), evidence.number("g3_error_in_ball")]
    known = [c.known() for c in columns if c is not None]
    if not known:
        return missing("the trust evaluation was not run")
    medians = [float(np.median(values)) for _, values in known if len(values) >= MIN_IMAGES]
    if not medians:
        return missing(f"fewer than {MIN_IMAGES} images have a gradient")
    worst = max(medians)
    images = sorted({int(i) for index, values in known for i in index[values > WRONG_GRADIENT]})
    text = f"a small step along the gradient changes the function by another {100 * worst:.2g} % than it says (median)"
    return Finding("fail" if worst > WRONG_GRADIENT else "pass", text, worst, WRONG_GRADIENT, tuple(images))
