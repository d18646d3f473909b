"""A while without the search for reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Search for no reference cycles for the time of a `with` block, or of a function that this decorates.

    For work that makes many objects which live until it ends: each full search goes through all of them and finds
    nothing. What nothing refers to is freed at once all the same. What is left at the end counts as old: the next
    search, which comes soon, would go through all of it.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            if not gc.get_freeze_count():  # thawing puts all frozen objects among the old, others' too
                gc.freeze()
                gc.unfreeze()
            gc.enable()
