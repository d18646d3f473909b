"""E1, E2 and T2: robust accuracy falls with the radius, to nothing in the whole box; without a defense soon."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np

from bench.trust.accuracies import FACTORS, lacks_power
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import MIN_IMAGES, NOT_RUN, exceeds, flagged, missing, share_finding

CARLINI: Final = "Carlini et al. 2019, section 4"
RISE: Final = 0.005
LEFT: Final = 0.005
TWIN: Final = 0.01


@check("E1", title="robust accuracy never rises with the radius", severity="adequacy", source=CARLINI)
def falls(evidence: Evidence) -> Finding:
    """Fail if attacks started anew at 1/4, 1/2, 1, 2 and 4 times the radius leave 0.5 points more at a larger one."""
    columns = {f: evidence.number(f"e1_robust_{f:g}") for f in FACTORS}
    if any(column is None for column in columns.values()):
        return missing(NOT_RUN)
    known = {f: column.known() for f, column in columns.items() if column is not None}
    n = min(len(index) for index, _ in known.values())
    if not n:
        return missing("no image was attacked")
    rises = [(int(known[b][1].sum() - known[a][1].sum()), a, b) for a, b in pairwise(FACTORS)]
    rise, smaller, larger = max(rises)
    index = known[larger][0]
    back = index[known[larger][1] > known[smaller][1]] if rise > 0 else np.empty(0, dtype=int)
    share, images = max(rise, 0) / n, tuple(int(i) for i in back)
    text = f"robust accuracy rises by {100 * share:.2g} points from {smaller:g} to {larger:g} times the radius"
    if exceeds(max(rise, 0), n, RISE):
        return Finding("fail", text, share, RISE, images)
    if lacks := lacks_power(evidence) or ("" if n >= MIN_IMAGES else f"at least {MIN_IMAGES} images are needed"):
        return Finding("not assessable", lacks, share, RISE)
    return Finding("pass", text if rise > 0 else "robust accuracy falls with the radius", share, RISE)


@check("E2", title="gradients alone break everything in the whole box", severity="adequacy", source=CARLINI)
def whole_box(evidence: Evidence) -> Finding:
    """Fail if PGD from the image itself leaves more than 0.5 % of images with the whole box as its ball."""
    column = evidence.number("e2_robust")
    return flagged(
        column, LEFT, "following gradients through the whole box leaves {k} of {n} images unbroken ({share})"
    )


@check("T2", title="the same attack breaks the undefended twin", severity="adequacy", source=CARLINI, needs="row")
def twin(evidence: Evidence) -> Finding:
    """Fail if the same attack, at four times the radius, leaves more than 1 % of images of the undefended model."""
    column = None if evidence.twin is None else evidence.twin.number(f"e1_robust_{FACTORS[-1]:g}")
    if column is None:
        return missing("there is no undefended model on the board to compare with")
    index, values = column.known()
    words = "at four times the radius the same attack leaves {k} of {n} images of the undefended model ({share})"
    return share_finding(index[values == 1], len(index), TWIN, words)
