"""R1-R3: a randomised model's verdicts and gradients do not depend on the luck of the draws."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.accuracies import TOO_DEAR, lacks_power, nothing_left, searched
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, gravest, missing, share_finding

ATHALYE: Final = "Athalye, Carlini, Wagner 2018, sections 3.3 and 4.2"
CHANGED: Final = 0.05  # of verdicts that other draws may turn
APART: Final = 0.35  # of a mean probability over 100 draws: five standard errors of the difference of two
EXTRA: Final = 0.005
AGREEMENT: Final = 0.2  # cosine of two gradients over 80 draws each
DISAGREEING: Final = 0.05  # of images


@check("R1", title="other draws give the same verdict", severity="adequacy", source=ATHALYE, tracks=("randomised",))
def verdicts_repeat(evidence: Evidence) -> Finding:
    """Fail if other draws turn more than 5 % of verdicts, or if answers are others among other images."""
    changed, difference = evidence.number("r1_verdict_changed"), evidence.number("r1_batch_difference")
    if changed is None or difference is None:
        return missing(NOT_RUN)
    index, values = changed.known()
    words = "other draws turn the verdict on {k} of {n} images"
    luck = share_finding(index[values == 1], len(index), CHANGED, words, so="the accuracy is a matter of luck")
    index, values = difference.known()
    words = "on {k} of {n} images answers are others beside other images than alone"
    return gravest(luck, share_finding(index[values > APART], len(index), 0.0, words))


@check("R2", title="more draws break nothing more", severity="adequacy", source=ATHALYE, tracks=("randomised",))
def enough_draws(evidence: Evidence) -> Finding:
    """Fail if four times the draws per gradient, or draws that are held, break more than 0.5 % more."""
    found = searched(evidence, ("r2_more_draws", "r2_held_draws"))
    if found is None:
        return missing(NOT_RUN)
    if done := nothing_left(evidence):
        return done
    broken, n = found
    words = "four times the draws per gradient, or held ones, break {share} more images ({k} of {n})"
    so, lacks = "the attack averaged over too few", lacks_power(evidence)
    return share_finding(broken, n, EXTRA, words, so=so, lacks=lacks) if n else missing(TOO_DEAR)


@check("R3", title="gradients of other draws agree", severity="adequacy", source=ATHALYE, tracks=("randomised",))
def gradients_agree(evidence: Evidence) -> Finding:
    """Fail if the gradients over two sets of draws point apart, a cosine below 0.2, on more than 5 % of images."""
    column = evidence.number("r3_agreement")
    if column is None:
        return missing(NOT_RUN)
    index, values = column.known()
    words = "on {k} of {n} images the gradients over two sets of draws point apart"
    apart = share_finding(index[values < AGREEMENT], len(index), DISAGREEING, words, so="an attack follows noise")
    if apart.verdict == "pass":
        text = f"gradients over two sets of draws have a cosine of {float(np.median(values)):.2g} (median)"
        return Finding("pass", text, float(np.median(values)), AGREEMENT)
    return apart
