"""Seeds that belong to the cell: one integer from any description, the same on every machine."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any


def derive(*parts: Any) -> int:
    """Return a 63-bit seed that depends on every part (by its `repr`) and on nothing else."""
    digest = hashlib.sha256("\x1f".join(repr(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (CPU and every GPU).

    `torch.manual_seed` prepares the generators of devices that a machine may not have, which takes a hundred times as
    long as seeding the CPU's.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Put the states of python's, numpy's and torch's generators (CPU and every GPU) back after the block."""
    import numpy as np
    import torch

    python, array = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
