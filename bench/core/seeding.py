"""Seeds that belong to the cell: one integer from any description, the same on every machine."""

from __future__ import annotations

import hashlib
import random
from typing import Any


def derive(*parts: Any) -> int:
    """Return a 63-bit seed that depends on every part (by its `repr`) and on nothing else."""
    digest = hashlib.sha256("\x1f".join(repr(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (CPU and every GPU)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
