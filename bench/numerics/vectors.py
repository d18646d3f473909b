"""Norms, unit vectors and finiteness of batches of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.errors import BenchError


def require_finite(what: str, values: Tensor) -> None:
    """Refuse NaN and infinity, which later maxima and means would hide.

    Args:
        what: name of the values, for the message.
        values: (B, …).

    Raises:
        BenchError: a value is not finite; names the first such example of the batch.
    """
    bad = ~values.detach().isfinite().flatten(1).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise BenchError(
            f"{what}: expected finite numbers, got NaN or infinity for example {first} of the batch. "
            f"Look at the model's logits there."
        )


def norms(v: Tensor) -> Tensor:
    """Return the Euclidean norm of each row of v (B, …), float64 (B,)."""
    return torch.linalg.vector_norm(v.detach().flatten(1), dim=1, dtype=torch.float64)


def unit(v: Tensor) -> Tensor:
    """Return v (B, …) with every row divided by its norm; zero rows stay zero."""
    length = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return v / torch.where(length > 0, length, 1).view(-1, *[1] * (v.ndim - 1))
