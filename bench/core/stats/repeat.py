"""What each kind of attack alone broke, and a bound on what one more run of the same attacks would break.

No estimate of what is breakable: such a number cannot be identified from runs of a fixed set of attacks. With m_g runs
of kind g that differ in their seeds alone, and f1_g images broken by exactly one run of all, that one being of kind g,

    E[images newly broken by one more run of kind g] ≤ E[f1_g] / m_g.

Proof: by exchangeability E[f1_g]/m_g is the expected number of images that a given run of g breaks while the m_g − 1
others and all other kinds do not; for a new run the same must hold with m_g others failing, which is a smaller event.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import betaincinv

MIN_RUNS: Final = 3  # runs per kind
MIN_IMAGES: Final = 100
PREREQUISITES: Final = ("G1", "G3", "T1", "T2")  # trust checks without which a repeat says nothing (masked gradients)


@dataclass(frozen=True, slots=True)
class KindRuns:
    """All runs of one kind of attack on the same images: same settings, each with its own seed.

    Attributes:
        kind: name of the attack and its loss, e.g. "apgd-ce".
        broken: images broken by each run, bool (m, n). Every image is in the first run; a later run may leave out
            those on which nothing is open for the kind, which counts as not broken.
        has_random_part: False for deterministic attacks, which are run once and have no term in the bound.
        seed_changes_points: whether two seeds gave different adversarial examples anywhere.
    """

    kind: str
    broken: np.ndarray
    has_random_part: bool = True
    seed_changes_points: bool = True


@dataclass(frozen=True, slots=True)
class OnlyBy:
    """What one kind of attack broke.

    Attributes:
        kind: name of the attack and its loss.
        runs: m, all runs of it.
        broken: images that its first run broke.
        alone: images that its m runs broke and no run of any other kind did.
    """

    kind: str
    runs: int
    broken: int
    alone: int


@dataclass(frozen=True, slots=True)
class RepeatBound:
    """Bound on what one more run of each kind, with new seeds, would break.

    Attributes:
        images: n.
        seen_once: kind to f1_g, images broken by exactly one run of all; kinds without a random part left out.
        expected: X = Σ f1_g / m_g, at most so many more in expectation; None if not assessable.
        upper: Y, upper 95 % limit of that expectation; None if not assessable.
        obstacles: why it is not assessable, one phrase each; empty if it is.
    """

    images: int
    seen_once: dict[str, int]
    expected: float | None
    upper: float | None
    obstacles: tuple[str, ...]


def only_by(kinds: Sequence[KindRuns]) -> list[OnlyBy]:
    """Count, per kind, the images broken by its first run, and those broken by this kind alone in all its runs."""
    union = np.stack([k.broken.any(0) for k in kinds])
    alone = union & (union.sum(0) == 1)
    return [
        OnlyBy(k.kind, len(k.broken), int(k.broken[0].sum()), int(a.sum())) for k, a in zip(kinds, alone, strict=True)
    ]


def repeat_bound(
    kinds: Sequence[KindRuns],
    failed_checks: Collection[str] = (),
    confidence: float = 0.95,
    obstacles: Sequence[str] = (),
) -> RepeatBound:
    """Bound what one more run of each of the same attacks would break; it never changes accuracy, rank or grade.

    X = Σ_g f1_g / m_g; Y = n·BetaInv(confidence; f1 + 1, n − f1) / min m_g with f1 = Σ f1_g (images are independent
    given per-example seeds, and a sum of unequal Bernoullis is less spread than a binomial).

    Args:
        kinds: all kinds that were run, deterministic ones included, on the same n images.
        failed_checks: names of the model's failed trust checks.
        confidence: of the upper limit, in (0, 1).
        obstacles: what else makes it hollow, one phrase each.

    Returns:
        X and Y, or why they cannot be given.
    """
    n = kinds[0].broken.shape[1] if kinds else 0
    times = np.sum([k.broken.sum(0) for k in kinds], axis=0) if kinds else np.zeros(0, int)
    random = [k for k in kinds if k.has_random_part]
    once = {k.kind: int((k.broken.any(0) & (times == 1)).sum()) for k in random}
    obstacles = (*obstacles, *_obstacles(random, n, failed_checks))
    if obstacles:
        return RepeatBound(n, once, None, None, obstacles)
    f1 = sum(once.values())
    share = float(betaincinv(f1 + 1, n - f1, confidence)) if f1 < n else 1.0
    expected = sum(once[k.kind] / len(k.broken) for k in random)
    return RepeatBound(n, once, expected, n * share / min(len(k.broken) for k in random), ())


def _obstacles(random: Sequence[KindRuns], n: int, failed_checks: Collection[str]) -> tuple[str, ...]:
    """Return why the bound would be hollow, one phrase per reason."""
    found = [] if random else ["no attack with a random part"]
    found += [f"{k.kind}: {len(k.broken)} runs, at least {MIN_RUNS} needed" for k in random if len(k.broken) < MIN_RUNS]
    found += [f"{k.kind}: two seeds gave identical points" for k in random if not k.seed_changes_points]
    found += [f"check {name} failed" for name in PREREQUISITES if name in failed_checks]
    return (*found, f"{n} images, at least {MIN_IMAGES} needed") if n < MIN_IMAGES else tuple(found)


def sentence(bound: RepeatBound) -> str:
    """Return the bound as the one sentence that may be printed of it."""
    if bound.expected is None or bound.upper is None:
        return f"A repeat of the same attacks is not assessable: {'; '.join(bound.obstacles)}."
    return (
        f"On these {bound.images} images another run of each of the same attacks with new seeds would be expected to "
        f"break at most {bound.expected:.2g} more (95 %: at most {bound.upper:.2g}). "
        "This says nothing about other attacks."
    )
