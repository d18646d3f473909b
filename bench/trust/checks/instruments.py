"""T1 and D1: the attack finds what is known to be there, and no pass computes gradients on its own."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.trust.accuracies import TOO_DEAR, nothing_left
from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, largest, missing, share_finding

NOT_FOUND: Final = 0.05
ENOUGH_FEATURES: Final = 16  # from which on an honest last layer tells one point of the ball from 100 others
NOT_PLANTED: Final = 0.5  # of images


@check(
    "T1",
    title="the attack finds planted adversarial examples",
    severity="adequacy",
    source="Zimmermann et al. 2022, section 4",
    tracks=("deterministic",),
)
def planted(evidence: Evidence) -> Finding:
    """Fail if the attack misses more than 5 % of examples planted behind a new last layer on the same features."""
    found, guessed = evidence.number("t1_found"), evidence.number("t1_random")
    if found is None or guessed is None:
        return missing(NOT_RUN)
    if done := nothing_left(evidence):
        return done
    features = evidence.number("t1_features")
    tried, sizes = (found.index, np.zeros(0)) if features is None else features.known()
    if not len(tried):
        return missing(TOO_DEAR)
    size = float(sizes.max())
    if not size:
        return missing("no example could be planted: no last linear layer was found whose change changes the decisions")
    index, values = found.known()
    lost = np.array(sorted(set(tried.tolist()) - set(index.tolist())), dtype=int)
    if size >= ENOUGH_FEATURES:
        words = f"on {{k}} of {{n}} images no example could be planted although the last layer has {size:.0f} features"
        unplanted = share_finding(lost, len(tried), NOT_PLANTED, words, so="they hardly tell points of the ball apart")
        if unplanted.verdict == "fail":
            return unplanted
    if not len(index):
        return missing(f"no example could be planted: {size:.0f} features cannot tell 101 points apart")
    luck = float(guessed.known()[1].mean())
    words = f"the attack misses {{k}} of {{n}} planted adversarial examples; 100 random points find {100 * luck:.2g} %"
    return share_finding(index[values == 0], len(index), NOT_FOUND, words)


@check(
    "D1",
    title="no gradients inside a forward pass",
    severity="adequacy",
    source="Croce et al. 2022, section 3",
)
def no_autograd(evidence: Evidence) -> Finding:
    """Fail if a forward pass runs autograd: such a defense answers to its attack, which needs one of its own."""
    return largest(evidence.number("d1_autograd_calls"), 0.0, "a forward pass runs autograd {value} times")
