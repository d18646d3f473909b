"""What the stages of an attack that tries one after the other broke, and what follows of each alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# The attack whose stages each try what the ones before have left, to their order (Croce and Hein 2020, section 5).
_AUTOATTACK: Final = ("apgd-ce", "apgd-t", "fab-t", "square")
CASCADES: Final[Mapping[str, tuple[str, ...]]] = {
    "autoattack": _AUTOATTACK,
    "autoattack_raced": tuple(f"{part}:{stage}" for part in ("race", "full") for stage in _AUTOATTACK),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: as stored.
        broken: images that it broke, of those that the stages before had left.
        alone: images that it alone breaks; None where later stages were not tried on what it broke.
        missed: images that would count as robust without it and the stages after it.
    """

    name: str
    broken: int
    alone: int | None
    missed: int


def cascade(attack: str, broken_by: Mapping[str, int]) -> tuple[Stage, ...]:
    """Return the stages of an attack in their order; empty where their order is not known.

    Of the last stage "broken by it alone" is a fact: every other one had been tried on the same images. Of the others
    it is not known, as later stages were not tried on what they broke.

    Args:
        attack: its name.
        broken_by: stage to how many images it broke; "" or "clean" for none.
    """
    order = CASCADES.get(attack, ())
    found = {name: broken_by.get(name, 0) for name in order}
    if not order or any(name not in found and k for name, k in broken_by.items() if name not in ("", "clean")):
        return ()
    missed = {name: sum(found[later] for later in order[place:]) for place, name in enumerate(order)}
    return tuple(Stage(name, k, k if name == order[-1] else None, missed[name]) for name, k in found.items())
