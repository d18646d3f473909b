"""E1, E2 and T2: robust accuracy falls with the radius, to nothing in the whole box; without a defense soon."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bench.trust.accuracies import FACTORS, TOO_DEAR, lacks_power, nothing_left
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import MIN_IMAGES, NOT_RUN, exceeds, flagged, missing, share_finding

CARLINI: Final = "Carlini et al. 2019, section 4"
LEAST_RADII: Final = 3  # of the five; the smaller ones are left out first where passes are few
RISE: Final = 0.005
LEFT: Final = 0.005
TWIN: Final = 0.01


@check("E1", title="robust accuracy never rises with the radius", severity="adequacy", source=CARLINI)
def falls(evidence: Evidence) -> Finding:
    """Fail if attacks started anew at 1/4, 1/2, 1, 2 and 4 times the radius leave 0.5 points more at a larger one."""
    known: dict[float, dict[int, float]] = {}
    for f in FACTORS:
        column = evidence.number(f"e1_robust_{f:g}")
        if column is None:
            return missing(NOT_RUN)
        if len(column.known()[0]):
            known[f] = dict(zip(*(values.tolist() for values in column.known()), strict=True))
    if done := nothing_left(evidence):
        return done
    if len(known) < LEAST_RADII:
        return missing(TOO_DEAR)
    rises = [_rise(known[a], known[b], a, b) for a, b in pairwise(known)]
    worst = max(rises, key=lambda rise: rise.share)
    tried = ", ".join(f"{f:g}" for f in known)
    text = f"robust accuracy rises by {100 * worst.share:.2g} points from {worst.a:g} to {worst.b:g} times the radius"
    if any(exceeds(rise.count, rise.n, RISE) for rise in rises):
        return Finding("fail", text, worst.share, RISE, worst.images)
    n = min(rise.n for rise in rises)
    if lacks := lacks_power(evidence) or ("" if n >= MIN_IMAGES else f"at least {MIN_IMAGES} images are needed"):
        return Finding("not assessable", lacks, worst.share, RISE)
    falling = f"robust accuracy falls with the radius ({tried} times it)"
    return Finding("pass", text if worst.share else falling, worst.share, RISE)


@dataclass(frozen=True, slots=True)
class _Rise:
    """By how many of n images robust accuracy rises from radius a to radius b, and which are robust at b alone."""

    a: float
    b: float
    count: int
    n: int
    images: tuple[int, ...]

    @property
    def share(self) -> float:
        return self.count / self.n if self.n else 0.0


def _rise(at_a: dict[int, float], at_b: dict[int, float], a: float, b: float) -> _Rise:
    """Return the rise on the images that were attacked at both radii."""
    both = sorted(at_a.keys() & at_b.keys())
    count = max(int(sum(at_b[i] for i in both) - sum(at_a[i] for i in both)), 0)
    back = tuple(i for i in both if at_b[i] > at_a[i]) if count else ()
    return _Rise(a, b, count, len(both), back)


@check("E2", title="gradients alone break everything in the whole box", severity="adequacy", source=CARLINI)
def whole_box(evidence: Evidence) -> Finding:
    """Fail if PGD from the image itself leaves more than 0.5 % of images with the whole box as its ball."""
    column = evidence.number("e2_robust")
    if column is not None and not len(column.known()[0]):
        return nothing_left(evidence) or missing(TOO_DEAR)
    return flagged(
        column, LEFT, "following gradients through the whole box leaves {k} of {n} images unbroken ({share})"
    )


@check("T2", title="the same attack breaks the undefended twin", severity="adequacy", source=CARLINI, needs="row")
def twin(evidence: Evidence) -> Finding:
    """Fail if the same attack leaves more than 1 % of images of the undefended model, at 4 eps and in the whole box."""
    if evidence.twin is None or (column := evidence.twin.number(f"e1_robust_{FACTORS[-1]:g}")) is None:
        return missing("there is no undefended model on the board to compare with")
    index, values = column.known()
    if not len(index):
        return nothing_left(evidence.twin) or missing(TOO_DEAR)
    words = "at four times the radius the same attack leaves {k} of {n} images of the undefended model ({share})"
    near = share_finding(index[values == 1], len(index), TWIN, words)
    if near.verdict != "fail":
        return near
    # Four times a small radius need not break a model without a defense: 0.4 in l2 does not on CIFAR-10.
    box = evidence.twin.number("e2_robust")
    if box is None or not len(box.known()[0]):
        return missing(f"{near.words}, and its whole box was not searched")
    index, values = box.known()
    return share_finding(
        index[values == 1], len(index), TWIN, f"{near.words}, in the whole box {{k}} of {{n}} ({{share}})"
    )
