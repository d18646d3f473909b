"""G1-G6: the gradients that attacks follow exist, are those of the function, and lead somewhere."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.accuracies import TOO_DEAR, nothing_left
from bench.trust.evidence import Evidence
from bench.trust.records import Finding, Verdict
from bench.trust.registry import check
from bench.trust.verdicts import MIN_IMAGES, NOT_RUN, exceeds, flagged, gravest, missing, share_finding

ATHALYE: Final = "Athalye, Carlini, Wagner 2018, section 3"
ZERO_MARGIN: Final = 0.001
ZERO_CE: Final = 0.01
WRONG_GRADIENT: Final = 0.10
FAR_OFF: Final = 0.5
FAR_OFF_SHARE: Final = 0.01
LOSSES: Final = 0.05
OUTPUTS: Final = 0.9  # share of images from which on outputs are taken for probabilities, or for flat
NOT_STATIONARY: Final = 0.5
NOT_STATIONARY_SHARE: Final = 0.05


def _unmeasured(evidence: Evidence, name: str) -> Finding | None:
    """Return what follows where gradients were left alone, as the attack had left no image; None if they were not."""
    column = evidence.number(name)
    return nothing_left(evidence) if column is None or not len(column.known()[0]) else None


@check("G1", title="margin has a gradient", severity="adequacy", source=ATHALYE)
def margin_gradient(evidence: Evidence) -> Finding:
    """Fail if the gradient of the margin is exactly zero at more than 0.1 % of images."""
    words = "the gradient of the margin is zero on {k} of {n} images"
    if unmeasured := _unmeasured(evidence, "g1_zero_margin_gradient"):
        return unmeasured
    return flagged(evidence.number("g1_zero_margin_gradient"), ZERO_MARGIN, words, so="attacks have nothing to follow")


@check("G2", title="cross-entropy has a gradient", severity="soft", source="Carlini and Wagner 2017, section IV")
def cross_entropy_gradient(evidence: Evidence) -> Finding:
    """Fail if the gradient of cross-entropy is exactly zero at more than 1 % of images."""
    words = "the gradient of cross-entropy is zero on {k} of {n} images"
    if unmeasured := _unmeasured(evidence, "g2_zero_ce_gradient"):
        return unmeasured
    return flagged(evidence.number("g2_zero_ce_gradient"), ZERO_CE, words, so="attacks on it stand still")


@check("G3", title="gradient agrees with differences of the function", severity="adequacy", source=ATHALYE)
def gradient_agrees(evidence: Evidence) -> Finding:
    """Fail if the gradient is off a central difference along it: by 0.10 in the median, or by 0.5 on 1 % of images."""
    if done := _unmeasured(evidence, "g1_zero_margin_gradient"):
        return done
    columns = [evidence.number("g3_error"), evidence.number("g3_error_in_ball")]
    known = [c.known() for c in columns if c is not None]
    if not known:
        return missing(NOT_RUN)
    medians = [float(np.median(values)) for _, values in known if len(values) >= MIN_IMAGES]
    if not medians:
        return missing(f"fewer than {MIN_IMAGES} images have a gradient")
    worst, n = max(medians), max(len(index) for index, _ in known)
    images = {int(i) for index, values in known for i in index[values > FAR_OFF]}
    text = f"a small step along the gradient changes the function by {_off(worst)} than the gradient says (median)"
    median = Finding("fail" if worst > WRONG_GRADIENT else "pass", text, worst, WRONG_GRADIENT, tuple(images))
    words = "on {k} of {n} images the gradient is not half as large, or more than twice, as the function's differences"
    return gravest(median, share_finding(np.array(sorted(images)), n, FAR_OFF_SHARE, words))


def _off(error: float) -> str:
    """Return a relative error in words: "35 % more or less", and "over 10 times more or less" for a large one."""
    percent = f"{100 * error:.0f}" if error >= 0.01 else f"{100 * error:.1g}"
    return f"{percent} % more or less" if error < 10 else "over 10 times more or less"


@check(
    "G4",
    title="cross-entropy and margin agree",
    severity="soft",
    source="Croce and Hein 2020, section 4",
    tracks=("deterministic",),
)
def losses_agree(evidence: Evidence) -> Finding:
    """Fail if robust accuracy under PGD on one loss and on the other differ by more than 5 points."""
    ce, margin = evidence.number("g4_ce_robust"), evidence.number("g4_margin_robust")
    if ce is None or margin is None:
        return missing(NOT_RUN)
    if done := nothing_left(evidence):
        return done
    (index, a), (_, b) = ce.known(), margin.known()
    if len(a) != len(b) or not len(a):
        return missing(TOO_DEAR)
    difference = int(a.sum() - b.sum())
    weaker = "cross-entropy" if difference > 0 else "the margin"
    lost = (a > b) if difference > 0 else (b > a)
    text = f"PGD on {weaker} alone breaks {100 * abs(difference) / len(a):.2g} % fewer images than on the other loss"
    failed = exceeds(abs(difference), len(a), LOSSES)
    verdict: Verdict = "fail" if failed else "pass" if len(a) >= MIN_IMAGES else "not assessable"
    images = tuple(int(i) for i in index[lost]) if failed else ()
    return Finding(verdict, text, abs(difference) / len(a), LOSSES, images)


@check(
    "G5",
    title="outputs are logits of a usual size",
    severity="soft",
    source="Carlini and Wagner 2017, section IV",
    tracks=("deterministic",),
)
def logits(evidence: Evidence) -> Finding:
    """Fail if the outputs are probabilities, or so small that their softmax is flat."""
    probabilities, flat = evidence.number("g5_probabilities"), evidence.number("g5_flat")
    if probabilities is None or flat is None:
        return missing(NOT_RUN)
    index, is_one = probabilities.known()
    _, is_flat = flat.known()
    if not len(index):
        return missing("no image was measured")
    for share, what in (
        (is_one.mean(), "the outputs are probabilities: cross-entropy on them is bounded"),
        (is_flat.mean(), "the softmax of the outputs is flat: they are scaled down"),
    ):
        if share > OUTPUTS:
            return Finding("fail", what, float(share), OUTPUTS)
    return Finding("pass", "the outputs are logits", float(max(is_one.mean(), is_flat.mean())), OUTPUTS)


@check(
    "G6",
    title="the attack ended where no direction helps",
    severity="adequacy",
    source="Wang et al. 2019, eq. (5)",
    tracks=("deterministic",),
)
def stationary(evidence: Evidence) -> Finding:
    """Fail if at more than 5 % of survivors the margin could rise further, to first order, by half of the most."""
    column = evidence.number("g6_stationarity")
    if column is None:
        return missing(NOT_RUN)
    index, values = column.known()
    if not len(index):
        return nothing_left(evidence) or missing(TOO_DEAR)
    words, so = (
        "on {k} of {n} survivors the attack ended where a direction still raised the margin",
        "it had not converged",
    )
    far = index[values > NOT_STATIONARY]
    return share_finding(far, len(index), NOT_STATIONARY_SHARE, words, so=so, min_images=1)
