"""What trust may cost: on how many images each search is run, so that all take half of the row's own attack at most.

An attack is over at once where nothing survives, and trust would cost more than what it examines. So it is given a
share of the passes that the attack was counted to take, and each search a sample of the images; one that is not run is
not assessable, which is no pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.core.records import Track
from bench.trust.verdicts import MIN_IMAGES

FEW: Final = MIN_IMAGES + 4  # images of a small sample: a check needs 20 to pass, and some give no number
SHARE: Final = 0.5  # of the attack's passes: what else trust computes, and rounding, take up to a tenth more
EVERYTHING: Final = 2**31


@dataclass(frozen=True, slots=True)
class Search:
    """What a search costs.

    Attributes:
        kept: questions to the model, forward and backward, about an image that the row's attack kept.
        broken: about one that it broke.
        votes: decisions of a randomised model about an image kept: the judge's, and those that confirm it.
        broken_votes: about one that was broken.
        least: images of the smallest sample.
    """

    kept: int
    broken: int
    votes: int = 0
    broken_votes: int = 0
    least: int = FEW


# By what they catch per pass (docs/trust.md): the first are cut last. As counted on honest networks.
DETERMINISTIC: Final[Mapping[str, Search]] = {
    "answers": Search(12, 12),  # G1-G3
    "repeats": Search(7, 7, least=4),  # V3-V5, G5
    "one_step": Search(4, 4),  # A1
    "box": Search(60, 25),  # E2
    "losses": Search(0, 40),  # G4, and E1 at the radius itself
    "larger": Search(165, 25),  # E1 at 2 and 4 times the radius
    "longer": Search(650, 0),  # A2, A3, G6
    "grid": Search(95, 0),  # B5
    "random": Search(101, 0),  # B1
    "planted": Search(290, 290),  # T1
    "smaller": Search(0, 165),  # E1 at 1/4 and 1/2 of the radius
    "decision": Search(510, 0),  # B4
}
# The most that each can take: where draws decide, its attacks stop late, and on fakes never.
RANDOMISED: Final[Mapping[str, Search]] = {
    "answers": Search(26, 26, 3, 3),  # G1-G3, R1, R3
    "repeats": Search(0, 0, 1, 1, least=4),  # V5
    "one_step": Search(2, 2, 2, 2),
    "box": Search(44, 44, 2, 2),
    "losses": Search(0, 88, 0, 4),
    "larger": Search(88, 88, 4, 4),
    "draws": Search(220, 0, 4, 0),  # R2
    "random": Search(101, 0, 2, 0),
    "smaller": Search(0, 88, 0, 4),
    "decision": Search(510, 0, 2, 0),
}
SEARCHES: Final[Mapping[Track, Mapping[str, Search]]] = {"deterministic": DETERMINISTIC, "randomised": RANDOMISED}
ALWAYS: Final = ("answers", "repeats")  # about the model itself
AT_ONCE: Final = 4  # images: the passes of fewer of a randomised model take as long as those of so many


@dataclass(frozen=True, slots=True)
class Work:
    """What the row's own attack took, and what there is to examine.

    Attributes:
        passes: of the attack per image, forward and backward.
        images: of the cell.
        kept: of these, correctly classified and not broken.
        draws: passes of the network for one question to a randomised model; 0: it is none.
        votes: passes for one decision of it.
    """

    passes: float
    images: int
    kept: int
    draws: int = 0
    votes: int = 0

    @property
    def track(self) -> Track:
        """Of the model."""
        return "randomised" if self.draws else "deterministic"


def allot(work: Work | None) -> dict[str, int]:
    """Return on how many of the images, in a random order of theirs, each search is run; 0: not at all.

    Every search first gets as many images as a check needs to pass, then all of them, in the order of `SEARCHES`, as
    far as the passes go. The model itself is always asked on these few. Where the attack kept no image, nothing can be
    broken in addition, and it is asked only whether it repeats itself.

    Args:
        work: of the row's attack; None: there is none to compare with, and everything is run.
    """
    names = dict.fromkeys(name for searches in SEARCHES.values() for name in searches)
    if work is None:
        return dict.fromkeys(names, EVERYTHING)
    found = dict.fromkeys(names, 0)
    searches = SEARCHES[work.track]
    left = SHARE * work.passes * work.images - asked(work)
    for first in (True, False):
        for name in searches if work.kept else ("repeats",):
            images = min(searches[name].least, work.images) if first else work.images
            more = cost(name, images, work) - cost(name, found[name], work)
            if more <= left or (first and name in ALWAYS):
                found[name], left = images, left - more
    return found


def asked(work: Work) -> float:
    """Return the passes of a randomised model's decisions on all images, and on the adversarial examples stored.

    Args:
        work: of the row's attack.
    """
    return float(work.votes * (2 * work.images - work.kept))


def cost(name: str, images: int, work: Work) -> float:
    """Return the passes of a search.

    Args:
        name: of `SEARCHES`.
        images: on so many of the images.
        work: of the row's attack.
    """
    search, share = SEARCHES[work.track][name], images / max(work.images, 1)
    kept, broken = share * work.kept, share * (work.images - work.kept)
    votes = work.votes * (search.votes * kept + search.broken_votes * broken)
    if work.track == "randomised":
        kept, broken = (max(n, AT_ONCE) if n else 0.0 for n in (kept, broken))
    return max(work.draws, 1) * (search.kept * kept + search.broken * broken) + votes
