"""What trust may cost: on how many images each search is run, so that all take half of the row's own attack at most.

An attack is over at once where nothing survives, and trust would cost more than what it examines. So it is given a
share of the passes that the attack was counted to take, and each search a sample of the images; one that is not run is
not assessable, which is no pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench.core.records import Track
from bench.trust.verdicts import MIN_IMAGES

FEW: Final = MIN_IMAGES + 4  # images of a small sample: a check needs 20 to pass, and some give no number
SHARE: Final = 0.5  # of the attack's passes: what else trust computes, and rounding, take up to a tenth more
EVERYTHING: Final = 2**31
Applies = Literal["all", "broken", "kept"]


@dataclass(frozen=True, slots=True)
class Search:
    """What a search costs.

    Attributes:
        passes: of one image, forward and backward, as counted on honest networks.
        applies: to all images, to those that the row's attack broke, or to those that it kept.
        least: images of the smallest sample.
    """

    passes: int
    applies: Applies
    least: int = FEW


# By what they catch per pass (docs/trust.md): the first are cut last.
SEARCHES: Final[Mapping[str, Search]] = {
    "answers": Search(13, "all"),  # V5, G1-G3, R1, R3
    "repeats": Search(6, "all", least=8),  # V3, V4, G5
    "one_step": Search(4, "all"),  # A1
    "box": Search(30, "all"),  # E2
    "losses": Search(40, "broken"),  # G4, and E1 at the radius itself
    "larger": Search(40, "all"),  # E1 at 2 and 4 times the radius
    "longer": Search(650, "kept"),  # A2, A3, G6
    "draws": Search(220, "kept"),  # R2
    "grid": Search(85, "kept"),  # B5
    "random": Search(101, "kept"),  # B1
    "planted": Search(290, "all"),  # T1
    "smaller": Search(165, "broken"),  # E1 at 1/4 and 1/2 of the radius
    "decision": Search(510, "kept"),  # B4
}
ONLY: Final[Mapping[Track, tuple[str, ...]]] = {  # searches that a track has alone
    "deterministic": ("repeats", "longer", "grid", "planted"),
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
    far as the passes go. The model is always asked on these few. Where the attack kept no image, nothing can be broken
    in addition, and only the model itself is asked.

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
        for name in (n for n in (SEARCHES if work.kept else ALWAYS) if n not in others):
            least = SEARCHES[name].least if work.kept else min(SEARCHES[name].least, MIN_IMAGES)
            images = min(least, work.images) if first else work.images
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
    share = {"all": work.images, "kept": work.kept, "broken": work.images - work.kept}[search.applies]
    return search.passes * work.per_question * share * images / max(work.images, 1)
