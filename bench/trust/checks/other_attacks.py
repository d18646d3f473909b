"""B1-B4: attacks that follow no gradient of the model break nothing that the others left."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.accuracies import TOO_DEAR, lacks_power, nothing_left, searched
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, missing, share_finding

ATHALYE: Final = "Athalye, Carlini, Wagner 2018, section 3.1"
EXTRA: Final = 0.002  # of all images
ON_GRID: Final = 0.005
ROWS: Final = 2  # other rows whose adversarial examples must have been tried
SQUARE: Final = "square"  # stage of AutoAttack that sees logits only


@check("B1", title="random points break nothing more", severity="adequacy", source=ATHALYE)
def random_points(evidence: Evidence) -> Finding:
    """Fail if 100 random points break any image that the attack left."""
    return _search(evidence, "b1_random", 0.0, "100 random points break {k} of {n} images that the attack did not")


@check("B2", title="random search breaks nothing more", severity="adequacy", source=ATHALYE, tracks=("deterministic",))
def square(evidence: Evidence) -> Finding:
    """Fail if the Square attack breaks more than 0.2 % of images that every gradient attack before it left."""
    column = next(evidence.at_threat("broken_by", attack="autoattack"), None)
    if column is None:
        return missing("AutoAttack was not evaluated at the claimed radius")
    if done := nothing_left(evidence):
        return done
    hit = column.index[np.array([stage == SQUARE for stage in column.texts], dtype=bool)]
    words = "Square, which sees no gradient, breaks {k} of {n} images that no gradient attack broke ({share})"
    return share_finding(hit, len(column.index), EXTRA, words, lacks=lacks_power(evidence))


@check("B3", title="others' examples break nothing more", severity="adequacy", source=ATHALYE, needs="row")
def transfer(evidence: Evidence) -> Finding:
    """Fail if adversarial examples of two other rows or more break more than 0.2 % of images that the attack left."""
    column, robust = next(evidence.at_threat("transfer"), None), evidence.robust()
    if column is None or robust is None or evidence.others < ROWS:
        return missing(f"adversarial examples of fewer than {ROWS} other rows were tried")
    if done := nothing_left(evidence):
        return done
    left = {int(i) for i, ok in zip(*robust.known(), strict=True) if ok}
    index, values = column.known()
    hit = np.array([i for i in index[values == 0] if int(i) in left], dtype=int)
    words = "examples found against other rows break {k} of {n} images that the attack did not ({share})"
    return share_finding(hit, len(index), EXTRA, words, lacks=lacks_power(evidence))


@check("B4", title="decisions alone break nothing more", severity="adequacy", source="Brendel, Rauber, Bethge 2018")
def decisions(evidence: Evidence) -> Finding:
    """Fail if a decision-based search breaks more than 0.2 % of images that the attack left."""
    return _search(evidence, "b4_decision", EXTRA, "a search that sees decisions alone breaks {k} of {n} images more")


@check(
    "B5",
    title="stored pixel values break nothing more",
    severity="adequacy",
    source=ATHALYE,
    tracks=("deterministic",),
)
def stored_values(evidence: Evidence) -> Finding:
    """Fail if points on the grid of stored pixel values break more than 0.5 % of images that the attack left."""
    return _search(
        evidence, "b5_on_grid", ON_GRID, "points on the grid of stored pixel values break {k} of {n} images more"
    )


def _search(evidence: Evidence, name: str, threshold: float, words: str) -> Finding:
    """Return whether a search breaks more than a share of all images, of those that the attack left."""
    found = searched(evidence, (name,))
    if found is None:
        return missing(NOT_RUN)
    if done := nothing_left(evidence):
        return done
    broken, n = found
    return share_finding(broken, n, threshold, words, lacks=lacks_power(evidence)) if n else missing(TOO_DEAR)
