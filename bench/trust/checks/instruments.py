"""T1 and D1: the attack finds what is known to be there, and no pass computes gradients on its own."""

from __future__ import annotations

from typing import Final

from bench.trust.evidence import Evidence
from bench.trust.records import Finding
from bench.trust.registry import check
from bench.trust.verdicts import NOT_RUN, largest, missing, share_finding

NOT_FOUND: Final = 0.05


@check(
    "T1",
    title="the attack finds planted adversarial examples",
    severity="adequacy",
    source="Zimmermann et al. 2022, section 4",
)
def planted(evidence: Evidence) -> Finding:
    """Fail if the attack misses more than 5 % of examples planted behind a new last layer on the same features."""
    found, guessed = evidence.number("t1_found"), evidence.number("t1_random")
    if found is None or guessed is None:
        return missing(NOT_RUN)
    index, values = found.known()
    if not len(index):
        return missing("no example could be planted: no last linear layer was found whose change changes the decisions")
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
