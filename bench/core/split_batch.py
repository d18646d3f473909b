"""Whether a training step of this thread sees a part of its batch only, the rest being with other processes.

Layers that compute over the batch ask, and then use torch's own functions, which the training replaces by ones that
see the whole batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_here = threading.local()


def is_split() -> bool:
    """Tell whether this thread computes a part of a batch."""
    return bool(getattr(_here, "split", False))


@contextlib.contextmanager
def split() -> Iterator[None]:
    """Compute a part of a batch inside the block."""
    before = is_split()
    _here.split = True
    try:
        yield
    finally:
        _here.split = before
