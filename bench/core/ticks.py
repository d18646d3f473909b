"""How far a long computation is, said to whoever listens; where nobody does, it costs nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tick:
    """A step of a computation.

    Attributes:
        stage: its name, e.g. "apgd-t"; "" where it has none.
        done: how many images, batches, rows … are behind it, or in it.
        of: of how many.
    """

    stage: str
    done: int
    of: int


_listeners: list[Callable[[Tick], None]] = []


def tick(stage: str, done: int, of: int) -> None:
    """Say how far a computation is.

    Args:
        stage: its name; "" where it has none.
        done: how many images, batches, rows … are behind it, or in it.
        of: of how many.
    """
    if _listeners:
        _listeners[-1](Tick(stage, done, of))


@contextlib.contextmanager
def heard(listener: Callable[[Tick], None]) -> Iterator[None]:
    """Give the ticks inside the block to a listener; one outside hears nothing meanwhile.

    Args:
        listener: called in the thread that computes; it returns soon.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
