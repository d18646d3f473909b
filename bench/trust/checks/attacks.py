"""A1-A3: the attack was neither too short nor beaten by a single step, and reported what it met."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.accuracies import TOO_DEAR, lacks_power, nothing_left, searched, survivors
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, flagged, gravest, missing, share_finding

CARLINI: Final = "Carlini et al. 2019, section 4"
EXTRA: Final = 0.005  # of all images
LATE: Final = 0.1  # part of a run's rise in its last 10 of 80 steps that counts as still rising
STILL_RISING: Final = 0.05  # of survivors
CLAIMS: Final = 0.001  # of all images


@check("A1", title="one step breaks nothing more", severity="soft", source=CARLINI)
def one_step(evidence: Evidence) -> Finding:
    """Fail if one step of the fast gradient method breaks more than 0.5 % of images that the attack left."""
    words = "a single step breaks {share} more images ({k} of {n})"
    return _extra(evidence, ("a1_one_step",), words, so="the attack lost its way")


@check("A2", title="twice the steps break nothing more", severity="adequacy", source=CARLINI, tracks=("deterministic",))
def converged(evidence: Evidence) -> Finding:
    """Fail if twice the steps and a restart break more than 0.5 % more, or the loss still rises on 5 % of survivors."""
    words, so = "twice the steps and a restart break {share} more images ({k} of {n})", "the attack had not converged"
    more = _extra(evidence, ("a2_broken_by_ce", "a2_broken_by_margin"), words, so=so)
    column = evidence.number("a2_late_rise")
    index, values = (np.empty(0), np.empty(0)) if column is None else column.known()
    if more.verdict != "pass" or not len(index):
        return more
    words = "the loss still rises at the end of a run of twice the steps on {k} of {n} survivors"
    return gravest(more, share_finding(index[values > LATE], len(index), STILL_RISING, words, min_images=1))


@check("A3", title="no silent success", severity="adequacy", source=CARLINI, tracks=("deterministic",))
def no_silent_success(evidence: Evidence) -> Finding:
    """Fail if a run met a misclassified point that it did not report, or if more than 0.1 % of claims do not hold."""
    column = evidence.number("a3_silent")
    if column is None:
        return missing(NOT_RUN)
    index, values = column.known()
    words = "on {k} of {n} survivors a run met a misclassified point that was not reported"
    silent = share_finding(index[values == 1], len(index), 0.0, words, min_images=1)
    if not len(index):
        left = survivors(evidence)
        silent = missing(TOO_DEAR)
        if left is None or not len(left[0]):
            silent = Finding("pass", "no image survived the attack", 0.0, 0.0)
    words = "{k} of {n} images have a misclassified point that did not hold when the model was asked again"
    ranked = {c.facts.params.get("attack") for c in evidence.of_role("robust") if c.facts.ranks}
    claims = [
        flagged(c, CLAIMS, words)
        for c in evidence.of_role("refused", norm=evidence.threat.norm)
        if c.facts.params.get("attack") in ranked
    ]
    return gravest(silent, *(c for c in claims if c.verdict == "fail"))


def _extra(evidence: Evidence, names: tuple[str, ...], words: str, *, so: str) -> Finding:
    """Return whether searches break more than 0.5 % of all images, of those that the attack left."""
    found = searched(evidence, names)
    if found is None:
        return missing(NOT_RUN)
    if done := nothing_left(evidence):
        return done
    broken, n = found
    return share_finding(broken, n, EXTRA, words, so=so, lacks=lacks_power(evidence)) if n else missing(TOO_DEAR)
