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
        kept: passes of an image that the row's attack kept, forward and backward, as counted on honest networks.
        broken: of one that it broke.
        least: images of the smallest sample.
    """

    kept: int
    broken: int
    least: int = FEW


# By what they catch per pass (docs/trust.md): the first are cut last.
SEARCHES: Final[Mapping[str, Search]] = {
    "answers": Search(12, 12),  # G1-G3, R1, R3
    "repeats": Search(7, 7, least=4),  # V3-V5, G5
    "one_step": Search(4, 4),  # A1
    "box": Search(60, 25),  # E2
    "losses": Search(0, 40),  # G4, and E1 at the radius itself
    "larger": Search(165, 25),  # E1 at 2 and 4 times the radius
    "longer": Search(650, 0),  # A2, A3, G6
    "draws": Search(220, 0),  # R2
    "grid": Search(95, 0),  # B5
    "random": Search(101, 0),  # B1
    "planted": Search(290, 290),  # T1
    "smaller": Search(0, 165),  # E1 at 1/4 and 1/2 of the radius
    "decision": Search(510, 0),  # B4
}
ONLY: Final[Mapping[Track, tuple[str, ...]]] = {  # searches that a track has alone
    "deterministic": ("longer", "grid", "planted"),
    "randomised": ("draws",),
}
ALWAYS: Final = ("answers", "repeats")  # about the model itself


@dataclass(frozen=True, slots=True)
class Work:
    """What the row's own attack took, and what there is to examine.

    Attributes:
        passes: of the attack per image, forward and backward.
        images: of the cell.
        kept: of these, correctly classified and not broken.
        per_question: passes of the network for one question to the model: the draws of a randomised one.
    """

    passes: float
    images: int
    kept: int
    per_question: int = 1


def allot(work: Work | None, track: Track = "deterministic") -> dict[str, int]:
    """Return on how many of the images, in a random order of theirs, each search is run; 0: not at all.

    Every search first gets as many images as a check needs to pass, then all of them, in the order of `SEARCHES`, as
    far as the passes go. The model itself is always asked on these few. Where the attack kept no image, nothing can be
    broken in addition, and it is asked only whether it repeats itself.

    Args:
        work: of the row's attack; None: there is none to compare with, and everything is run.
        track: of the model.
    """
    if work is None:
        return dict.fromkeys(SEARCHES, EVERYTHING)
    found = dict.fromkeys(SEARCHES, 0)
    others = {name for kind, names in ONLY.items() if kind != track for name in names}
    left = SHARE * work.passes * work.images
    for first in (True, False):
        for name in (n for n in (SEARCHES if work.kept else ("repeats",)) if n not in others):
            images = min(SEARCHES[name].least, work.images) if first else work.images
            more = cost(name, images, work) - cost(name, found[name], work)
            if more <= left or (first and name in ALWAYS):
                found[name], left = images, left - more
    return found


def cost(name: str, images: int, work: Work) -> float:
    """Return the passes of a search.

    Args:
        name: of `SEARCHES`.
        images: on so many of the images.
        work: of the row's attack.
    """
    search = SEARCHES[name]
    whole = search.kept * work.kept + search.broken * (work.images - work.kept)
    return whole * work.per_question * images / max(work.images, 1)
