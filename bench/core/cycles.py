"""A while without the search for reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Search for no reference cycles for the time of a `with` block, or of a function that this decorates.

    For work that makes many objects which live until it ends: each full search goes through all of them and finds
    nothing. What nothing refers to is freed at once all the same.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
