"""Groups of targets that run at the same time, and how many points one pass holds."""

from __future__ import annotations

from typing import Final

MAX_POINTS: Final = 512  # points in one pass when several targets run in lockstep: bounds the memory


def lockstep(targets: int) -> list[list[int]]:
    """Return the groups of targets, by rank, that run at the same time: the nearest class first, then the rest.

    The nearest class breaks most examples, so its run spares the others theirs; the rest share their passes.
    The groups are fixed, so that which target breaks an example does not depend on the batch.
    """
    return [group for group in ([0], list(range(1, targets))) if group]
