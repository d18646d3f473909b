"""V6, V7 and C1: what is stored agrees with the model, its data, its certificate and itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np

from bench.trust.evidence import Evidence, Measured
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import exceeds, missing, share_finding

PROTOCOL: Final = "docs/trust.md"
MISMATCHES: Final = 0.001
ROUNDING: Final = 1e-5  # of a radius: certificates hold in real arithmetic, networks run in float32
TIE: Final = 1e-3  # of the median margin: closer decisions may differ between two batch sizes
SHA256: Final = re.compile("[0-9a-f]{64}")


@check("V6", title="stored adversarial examples hold", severity="validity", source=PROTOCOL, needs="files")
def examples_hold(evidence: Evidence) -> Finding:
    """Fail if more than 0.1 % of the stored adversarial examples are outside ball or box, or classified correctly."""
    column = evidence.number("v6_holds")
    index, values = (np.empty(0), np.empty(0)) if column is None else column.known()
    if not len(index):
        return missing("no adversarial examples are stored")
    words = "{k} of {n} stored adversarial examples do not hold when the model is asked again"
    return share_finding(index[values == 0], len(index), MISMATCHES, words, min_images=1)


@check("V7", title="data and weights are the ones named", severity="validity", source=PROTOCOL, needs="files")
def hashes(evidence: Evidence) -> Finding:
    """Pass where data and weights were read against a SHA-256; a mismatch ends the evaluation itself."""
    named = [str(evidence.facts.get(name) or "") for name in ("weights", "data")]
    if not all(map(SHA256.fullmatch, named)):
        return missing("no SHA-256 of weights and data is stored")
    return Finding("pass", "weights and data were checked against their SHA-256 when they were read")


@check("C1", title="nothing is broken inside a certificate", severity="validity", source="Tsuzuku et al. 2018")
def within_certificate(evidence: Evidence) -> Finding:
    """Fail if an image is broken nearer than its certified radius, or if accuracy at radius 0 is not clean accuracy.

    A certificate that holds with probability 1 − alpha may be wrong on a share alpha of images, and the votes that
    judge an image inside it on another: the check fails if significantly more than 2·alpha are.

    Returns:
        The finding, with the images broken inside.
    """
    inside, proved, allowed = _inside(evidence)
    disagree, compared = _at_zero(evidence)
    if exceeds(len(inside), proved, allowed):
        text = f"{len(inside)} images are broken inside the radius that was proved for them"
        return Finding("fail", text, float(len(inside)), 0.0, tuple(inside))
    if exceeds(len(disagree), compared, 0.0):
        text = f"{len(disagree)} of {compared} images are right without an attack in one evaluation and not in another"
        return Finding("fail", text, float(len(disagree)), 0.0, tuple(disagree))
    if not compared and not proved:
        return missing("neither a certificate nor clean accuracy and an attack were evaluated")
    radius = f"nothing is broken inside the {proved} certified radii" if proved else "there is no certificate"
    return Finding("pass", f"{radius}, and attacks agree with clean accuracy on {compared} images", 0.0, 0.0)


def _inside(evidence: Evidence) -> tuple[list[int], int, float]:
    """Return the images broken inside their certified radius, how many radii are positive, and the share allowed."""
    radii: dict[int, float] = {}
    allowed = 0.0
    for column in evidence.of_role("certified", norm=evidence.threat.norm):
        if "eps" in column.facts.params or column.facts.params.get("of") == "expectation":
            continue  # flags at a radius; radii of an expectation, which finite votes need not share
        allowed = max(allowed, 2 * float(column.facts.params.get("alpha", 0.0)))
        for place, radius in zip(*(v.tolist() for v in column.known()), strict=True):
            radii[place] = max(radius, radii.get(place, 0.0))
    radii = {i: r for i, r in radii.items() if r > 0}
    broken = {
        int(i)
        for column in evidence.of_role("distance", norm=evidence.threat.norm)
        for i, distance in zip(*column.known(), strict=True)
        if distance < radii.get(int(i), 0.0) * (1 - ROUNDING)
    }
    return sorted(broken), len(radii), allowed


def _at_zero(evidence: Evidence) -> tuple[list[int], int]:
    """Return the images on whose clean correctness an attack and the accuracy disagree, and how many were compared.

    Ties are left out: they may be decided otherwise at another batch size.
    """
    clean = next(evidence.of_role("clean"), None)
    if clean is None:
        return [], 0
    right = dict(zip(*(v.tolist() for v in clean.known()), strict=True))
    margins = next(evidence.of_role("margin"), None)
    if margins is not None and len(margins.known()[0]):
        index, size = margins.known()[0], np.abs(margins.known()[1])
        for i in index[size <= TIE * np.median(size)].tolist():
            right.pop(i, None)
    differ, compared = set(), set()
    for column in evidence.of_role("broken_by", norm=evidence.threat.norm):
        for i, stage in _stages(column):
            if i in right:
                compared.add(i)
                differ |= {i} if (stage != "clean") != bool(right[i]) else set()
    return sorted(differ), len(compared)


def _stages(column: Measured) -> Iterator[tuple[int, str]]:
    return zip(column.index.tolist(), column.texts, strict=True)
